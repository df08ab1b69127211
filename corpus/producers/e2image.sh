#!/usr/bin/env bash
# Makes the images of the folder e2image with e2image (package e2fsprogs), which writes the metadata
# of a file system as qcow2, version 2, with code of its own. Its images have leaked clusters: one
# for the last L2 table it did not need, and two behind the end of the file.
#
#   e2image.sh FOLDER
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 FOLDER" >&2; exit 1; }
mkdir -p "$1"
cd "$1"
rm -f -- *.qcow2
trap 'rm -f fs.img' EXIT
for block in 1024 4096; do
    rm -f fs.img
    truncate -s 8M fs.img
    mkfs.ext4 -q -b "$block" -O '^has_journal' -N 16 -U 00000000-0000-0000-0000-000000000001 fs.img
    e2image -Q fs.img "ext4-$block.qcow2" 2>/dev/null
done

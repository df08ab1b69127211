#!/usr/bin/env bash
# Makes the images of the folder xen-orchestra with @xen-orchestra/qcow2 (npm), with which Xen
# Orchestra exports the disks of virtual machines as qcow2, version 2, with code of its own. Needs
# Node.js 20 and npm, and fetches the package into a temporary folder.
#
#   xen-orchestra.sh FOLDER
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 FOLDER" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
rm -f -- "$folder"/*.qcow2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# It imports @vates/read-chunk, but does not say so.
npm install --silent --no-save --prefix "$work" @xen-orchestra/qcow2@1.3.1 @xen-orchestra/disk-transform@1.3.3 @vates/read-chunk@1.2.1 >&2
cp "$here/xen-orchestra.mjs" "$work"
node "$work/xen-orchestra.mjs" "$folder"

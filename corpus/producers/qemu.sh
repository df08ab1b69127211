#!/usr/bin/env bash
# Makes the images of a folder qemu-VERSION with that QEMU's tools: one for each option of the
# format, and what administrators do to images. The guest writes patterns, so that the images
# compress well in a repository.
#
#   qemu.sh FOLDER [FOLDER-OF-QEMU'S-PROGRAMS]
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 FOLDER [PROGRAMS]" >&2; exit 1; }
mkdir -p "$1"
[ $# -lt 2 ] || PATH=$(cd "$2" && pwd):$PATH
cd "$1"
rm -f -- *.qcow2 *.raw

# image NAME OPTIONS SIZE [COMMANDS OF QEMU-IO...]
image() {
    local name=$1 options=$2 size=$3 c
    local commands=()
    shift 3
    qemu-img create -q -f qcow2 -o "$options" "$name.qcow2" "$size" 2>/dev/null ||
        { echo "$name: not with this version" >&2; rm -f "$name.qcow2" "$name.raw"; return; }
    for c in "$@"; do commands+=(-c "$c"); done
    [ $# = 0 ] || qemu-io "${commands[@]}" "$name.qcow2" >/dev/null
}

some=('write -P 1 0 20k' 'write -P 2 100k 3k' 'write -z 128k 16k' 'discard 0 4k')

image default compat=1.1 1M 'write -P 1 100k 5k'
image version-2 compat=0.10,cluster_size=4k 1M "${some[@]}"
image clusters-512 cluster_size=512 300k "${some[@]}"
image clusters-128k cluster_size=128k 1M 'write -P 1 0 1k'
image odd-size cluster_size=4k 1000003 "${some[@]}"
image zero-size cluster_size=4k 0
image refcount-bits-1 cluster_size=4k,refcount_bits=1 1M "${some[@]}"
image refcount-bits-64 cluster_size=4k,refcount_bits=64 1M "${some[@]}"
image lazy-refcounts cluster_size=4k,lazy_refcounts=on 1M "${some[@]}"
image extended-l2 cluster_size=16k,extended_l2=on 1M 'write -P 1 0 20k' 'write -P 2 100k 1k' 'write -z 128k 2k' 'discard 0 1k'
image preallocated cluster_size=4k,preallocation=metadata 64k
image zstd cluster_size=4k,compression_type=zstd 256k 'write -c -P 1 0 4k' 'write -c -P 2 4k 4k' 'write -P 3 16k 4k'
image zlib cluster_size=4k 256k 'write -c -P 1 0 4k' 'write -c -P 2 4k 4k' 'write -P 3 16k 4k'
image data-file cluster_size=4k,data_file=data-file.raw 64k 'write -P 1 8k 4k'
image data-file-raw cluster_size=4k,data_file=data-file-raw.raw,data_file_raw=on 64k 'write -P 1 8k 4k'

truncate -s 64k backing.raw
image overlay cluster_size=4k,backing_file=backing.raw,backing_fmt=raw 96k 'write -P 1 8k 4k' 'discard 16k 4k'

# A secret is an object, not an option.
rm -f luks.qcow2
qemu-img create -q -f qcow2 --object secret,id=s,data=secret \
    -o cluster_size=4k,encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 luks.qcow2 64k

image snapshots cluster_size=4k 256k 'write -P 1 0 64k'
qemu-img snapshot -c first snapshots.qcow2
qemu-io -c 'write -P 2 8k 8k' snapshots.qcow2 >/dev/null
qemu-img snapshot -c second snapshots.qcow2
qemu-img snapshot -a first snapshots.qcow2
qemu-img snapshot -d first snapshots.qcow2

image bitmaps cluster_size=4k 1M
qemu-img bitmap --add -g 512 bitmaps.qcow2 fine
qemu-img bitmap --add --disable bitmaps.qcow2 stopped
qemu-io -c 'write -P 1 0 20k' -c 'write -P 2 900k 3k' bitmaps.qcow2 >/dev/null
qemu-img bitmap --merge fine bitmaps.qcow2 stopped

image resized cluster_size=512 64k 'write -P 1 0 64k'
qemu-img resize -q resized.qcow2 2M
qemu-img resize -q --shrink resized.qcow2 32k

image upgraded compat=0.10,cluster_size=4k 64k 'write -P 1 0 8k'
qemu-img amend -f qcow2 -o compat=1.1,lazy_refcounts=on upgraded.qcow2

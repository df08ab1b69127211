#!/usr/bin/env bash
# Installs the QEMU programs that the tests compare qcheck with, and those that make real file systems,
# where that is possible without asking anything: as root, with apt-get. Installs nothing that is there already, and says plainly what is
# missing and what that means otherwise. Fails only where CI=true.
set -euo pipefail

# program -> Debian package. The system emulator makes snapshots that hold the state of a virtual
# machine; the one test that needs it is skipped without it, in CI too.
needed=(qemu-img:qemu-utils qemu-io:qemu-utils qemu-nbd:qemu-utils qemu-storage-daemon:qemu-system-common)
# Those that make real file systems, and check them: small, a few seconds.
needed+=(sfdisk:fdisk mke2fs:e2fsprogs debugfs:e2fsprogs mkfs.xfs:xfsprogs mkfs.btrfs:btrfs-progs ntfscp:ntfs-3g)
wanted=(qemu-system-x86_64:qemu-system-x86)

have() {
    [ -n "${QCHECK_QEMU_DIR:-}" ] && [ -x "$QCHECK_QEMU_DIR/$1" ] && return
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null
}

# missing PROGRAM:PACKAGE...: the packages of the programs that are not there, each once
missing() {
    local pair
    for pair in "$@"; do
        have "${pair%%:*}" || echo "${pair##*:}"
    done | sort -u
}

install() {
    echo "install-deps: installing $*"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null &&
        apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null
}

mapfile -t packages < <(missing "${needed[@]}" "${wanted[@]}")
# The race detector, which .ci/run uses, links with a C compiler.
if [ "${CI:-}" = true ] && ! command -v "${CC:-cc}" >/dev/null; then
    packages+=(gcc libc6-dev)
fi
[ ${#packages[@]} = 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
    echo "install-deps: not root, so nothing is installed" >&2
elif ! command -v apt-get >/dev/null; then
    echo "install-deps: no apt-get here, so nothing is installed" >&2
elif ! install "${packages[@]}"; then
    # The emulator alone may be what cannot be had.
    mapfile -t packages < <(missing "${needed[@]}")
    [ ${#packages[@]} = 0 ] || install "${packages[@]}" || true
fi

mapfile -t packages < <(missing "${needed[@]}")

if [ ${#packages[@]} != 0 ]; then
    cat >&2 <<END

    Tools are missing: every test that compares qcheck with a real QEMU, or rescues a real file system,
    will be SKIPPED.
    To run them:  apt-get install --no-install-recommends ${packages[*]}

END
    if [ "${CI:-}" = true ]; then
        echo "install-deps: and with CI=true that is a failure" >&2
        exit 1
    fi
elif [ -n "$(missing "${wanted[@]}")" ]; then
    echo "install-deps: no ${wanted[0]%%:*} (package ${wanted[0]##*:}): snapshots with the state of a virtual machine are not tested against QEMU" >&2
fi

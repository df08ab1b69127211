#!/usr/bin/env bash
# Writes the sample images into ./demo, shows what qcheck says of each, repairs one and takes that back.
# `make demo` has built it.
set -euo pipefail
cd "$(dirname "$0")/.."

samples=$(bin/qcheck corpus samples demo </dev/null)

# show ARGS...: runs qcheck as one would type it
show() {
    local code=0
    printf '\n$ bin/qcheck %s\n' "$*"
    bin/qcheck "$@" </dev/null || code=$?
    printf '(exit code %d)\n' "$code"
    # A fault found is what the demo is for; not having been able to look is not.
    case $code in 0 | 2 | 3) ;; *) exit 1 ;; esac
}

rm -f demo/*.qcheck-undo
while IFS= read -r line; do
    image=${line%%: *}
    printf '\n── %s\n   %s\n' "$image" "${line#*: }"
    show "$image"
done <<<"$samples"

printf '\n── A repair: what it would do, then for good\n'
show -n --bitmap-policy=all-dirty demo/killed-hypervisor.qcow2
before=$(sha256sum demo/killed-hypervisor.qcow2)
show -r --bitmap-policy=all-dirty demo/killed-hypervisor.qcow2
show demo/killed-hypervisor.qcow2
printf '\n── And back, byte for byte\n'
show undo demo/killed-hypervisor.qcow2
[ "$before" = "$(sha256sum demo/killed-hypervisor.qcow2)" ]
printf '\nNow try it on an image of your own: bin/qcheck disk.qcow2\n'

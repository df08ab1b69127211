#!/usr/bin/env bash
# Makes the release twice and compares every byte; installs the deb package on this system (as root, Debian
# or Ubuntu), runs what it has installed, and removes it again. TARGETS limits what is built.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
export VERSION=${VERSION:-1.2.3} TARGETS=${TARGETS:-linux/amd64}

./.ci/dist.sh "$dir/one"
./.ci/dist.sh "$dir/two" > /dev/null
cmp "$dir/one/SHA256SUMS" "$dir/two/SHA256SUMS"
(cd "$dir/two" && sha256sum --quiet -c SHA256SUMS)
echo "dist-test: two builds, same bytes"

grep -q '"name": "github.com/alecthomas/kong"' "$dir"/one/*linux-amd64.cdx.json
tar -tzf "$dir"/one/*-linux-amd64.tar.gz | grep -q '/man/qcheck-info.1.gz$'
[ "$(head -c 4 "$dir"/one/*.x86_64.rpm | od -An -tx1 | tr -d ' ')" = edabeedb ]

if [ "$(id -u)" != 0 ] || ! command -v dpkg > /dev/null; then
    echo "dist-test: not root on a Debian system, so the package is NOT installed" >&2
    [ "${CI:-}" != true ]
    exit
fi
if dpkg -s qcheck > /dev/null 2>&1; then
    echo "dist-test: qcheck is installed here already; it is left alone" >&2
    exit 1
fi
dpkg -i "$dir"/one/qcheck_*_amd64.deb > /dev/null
dpkg -L qcheck | while read -r f; do [ -e "$f" ] || [[ $f = /usr/share/man/* || $f = /usr/share/doc/* ]]; done # a container may leave manuals out
dpkg -L qcheck | grep -q '^/usr/share/man/man1/qcheck-repair.1.gz$\|^/usr/share/man/man1/qcheck-undo.1.gz$'
[ "$(/usr/bin/qcheck version)" = "qcheck $VERSION" ]
/usr/bin/qcheck corpus samples "$dir/images" > /dev/null
/usr/bin/qcheck "$dir/images/healthy.qcow2"
bash -c '. /usr/share/bash-completion/completions/qcheck && complete -p qcheck' > /dev/null
dpkg -r qcheck > /dev/null
[ ! -e /usr/bin/qcheck ] && [ ! -e /usr/share/bash-completion/completions/qcheck ]
echo "dist-test: the package was installed, it runs, and it was removed"

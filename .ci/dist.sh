#!/usr/bin/env bash
# Makes what a release consists of, in the folder given (dist): an archive for each system, deb and rpm
# packages for Linux, a bill of materials, checksums. The same commit gives the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-dist}
GO=${GO:-go}
version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unknown)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
day=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d)
targets=${TARGETS:-linux/amd64 linux/arm64 linux/riscv64 darwin/amd64 darwin/arm64}
# A package's version starts with a digit.
package_version=${version#v}
[[ $package_version =~ ^[0-9] ]] || package_version=0.0.0~git$package_version
umask 022

rm -rf "$out"
mkdir -p "$out/work"
work=$(cd "$out/work" && pwd)
out=$(cd "$out" && pwd)

build() { # OS ARCH FILE
    CGO_ENABLED=0 GOOS=$1 GOARCH=$2 GOFLAGS= "$GO" build -trimpath -buildvcs=false \
        -ldflags "-s -w -buildid= -X main.version=$version" -o "$3" ./cmd/qcheck
}

# What is the same for all: made by the program itself.
build "$("$GO" env GOHOSTOS)" "$("$GO" env GOHOSTARCH)" "$work/self"
"$work/self" man --date "$day" "$work/man"
gzip -9n "$work"/man/*
mkdir -p "$work/completions"
for shell in bash zsh fish; do "$work/self" completion $shell > "$work/completions/qcheck.$shell"; done
(cd .ci/dist && GOFLAGS= "$GO" build -trimpath -buildvcs=false -o "$work/sbom" . && GOFLAGS= "$GO" build -trimpath -buildvcs=false -o "$work/nfpm" github.com/goreleaser/nfpm/v2/cmd/nfpm)

for target in $targets; do
    os=${target%/*} arch=${target#*/}
    name=qcheck-$package_version-$os-$arch
    dir=$work/$name
    mkdir -p "$dir"
    binary=$dir/qcheck
    [ "$os" != windows ] || binary=$binary.exe
    build "$os" "$arch" "$binary"
    "$work/sbom" "$binary" "$package_version" > "$out/$name.cdx.json"
    cp -r LICENSE README.md CHANGELOG.md "$work/man" "$work/completions" "$dir/"
    tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=ustar \
        -C "$work" -c "$name" | gzip -9n > "$out/$name.tar.gz"
    [ "$os" = linux ] || continue
    sed -e "s|@ARCH@|$arch|; s|@VERSION@|$package_version|; s|@BINARY@|$binary|; s|@WORK@|$work|; s|@DAY@|${day}T00:00:00Z|" .ci/dist/nfpm.yaml > "$work/nfpm-$arch.yaml"
    for m in "$work"/man/*; do
        printf '  - src: %s\n    dst: /usr/share/man/man1/%s\n    file_info: {mode: 0644, mtime: %s}\n' "$m" "$(basename "$m")" "${day}T00:00:00Z" >> "$work/nfpm-$arch.yaml"
    done
    for kind in deb rpm; do
        "$work/nfpm" package -f "$work/nfpm-$arch.yaml" -p $kind -t "$out/" > /dev/null
    done
done
rm -rf "$work"
(cd "$out" && sha256sum -- * > SHA256SUMS)
ls "$out"

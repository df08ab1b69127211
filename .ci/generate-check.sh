#!/usr/bin/env bash
# Runs `go generate ./...` and fails if that changed, added or removed a file. It compares the tree with
# itself, so that it works with uncommitted changes, and without git.
set -euo pipefail
cd "$(dirname "$0")/.."

state() {
    find . -type f -not -path './.git/*' -not -path './bin/*' -not -path './demo/*' -not -path './dist/*' -not -path './bench-images/*' \
        -exec sha256sum {} + | LC_ALL=C sort -k2
}

before=$(state)
"${GO:-go}" generate ./...
after=$(state)
if [ "$before" != "$after" ]; then
    echo "generate-check: not up to date; these files changed (commit what 'make generate' makes):" >&2
    diff <(echo "$before") <(echo "$after") | awk '/^[<>]/ { print "  " $3 }' | sort -u >&2
    exit 1
fi

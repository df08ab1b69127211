#!/bin/sh
# Checks one part of a list of images: worker.sh LIST I N OUT
# Writes OUT/I.jsonl as a whole or not at all, so that a worker that was killed can be started
# again, and one that has finished is not started twice.
set -u
done=$4/$2.jsonl
[ -e "$done" ] && exit 0
new=$done.$$.tmp
"${QCHECK:-qcheck}" -o jsonl --files-from "$1" --shard "$2/$3" >"$new"
code=$?
case $code in
# What was found is in the file. Anything else is no end of a check: a signal, no such program.
0 | 1 | 2 | 3 | 4 | 63) mv "$new" "$done" ;;
*) rm -f "$new"; exit "$code" ;;
esac

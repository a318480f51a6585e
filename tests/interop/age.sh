#!/bin/sh
# The stock `age` tool reads what credbroker wrote, with the identity file as it is.
# Takes a store's directory, or makes one with two records.
set -eu
cd "$(dirname "$0")/../.."
if [ $# -eq 0 ]; then
    made=$(mktemp -d)
    trap 'rm -rf "$made"' EXIT
    CREDBROKER_TEST_ROLE=sample CREDBROKER_TEST_STORE="$made/store" \
        cargo test --quiet --test store -- --exact processes::child_in_a_role
    set -- "$made/store"
fi
store=$1
read_files=0
for record in "$store"/tokens/*/*.age "$store"/keys/*.age; do
    [ -e "$record" ] || continue
    text=$(age --decrypt --identity "$store/identity.txt" "$record")
    case $text in
        '{"format":1,"kind":"token","provider":"'* | '{"format":1,"kind":"key","name":"'*) ;;
        *) echo "age.sh: $record does not hold a record" >&2; exit 1 ;;
    esac
    read_files=$((read_files + 1))
done
[ "$read_files" -gt 0 ] || { echo "age.sh: no record in $store" >&2; exit 1; }
echo "age read $read_files records"

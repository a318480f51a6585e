#!/usr/bin/env bash
# Mutation testing: cargo-mutants changes one expression after the other, and a test has to notice. Hours for everything,
# minutes for a small module. A mutant that the module's own tests miss is tried against more before it counts as missed.
#
#   tests/mutants/run.sh                         every module below
#   tests/mutants/run.sh timing merge            these
#   tests/mutants/run.sh policy -- -F Right      of this one, the mutants whose name matches
#
# What is left out, and why, stands in mutants.toml. What was found stands in target/mutants/MODULE/mutants.out/; mutants
# that were caught there before are not tried again: remove the directory to begin anew. Ends non-zero if one is missed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
cache=${CREDBROKER_CI_CACHE:-$HOME/.cache/credbroker-ci}
out=target/mutants
# The sources are copied, what is built is kept.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/mutants/build} CARGO_INCREMENTAL=1 CARGO_TERM_COLOR=never

modules=(timing merge policy peer sandbox authority limits scheduler coordinator audit store)

# What the module is made of, a pattern a word.
files() {
    case $1 in
        timing | scheduler | coordinator | audit) echo "src/broker/$1/**/*.rs" ;;
        merge) echo src/credential/merge.rs ;;
        policy) echo src/broker/policy.rs ;;
        peer | authority | limits) echo "src/server/$1/**/*.rs" ;;
        sandbox)
            echo "src/sandbox/**/*.rs src/cli/run/mount_points.rs src/cli/run/places.rs src/cli/run/links.rs" \
                "src/cli/run/asking.rs src/cli/run/here.rs src/cli/run/authorities.rs"
            ;;
        store) echo "src/store/**/*.rs" ;;
        *) echo "no such module: $1 (there are: ${modules[*]})" >&2 && exit 64 ;;
    esac
}

# The tests that ask it most closely, then those that go through it: seconds each, in that order.
narrow() {
    case $1 in
        timing | policy | audit) echo "--lib broker::$1" ;;
        merge) echo "--lib credential::" ;;
        peer | limits | authority) echo "--lib server::$1" ;;
        sandbox) echo "--lib --test sandbox" ;;
        scheduler) echo "--lib --test scheduler" ;;
        coordinator) echo "--lib --test refresh" ;;
        store) echo "--lib --test store" ;;
    esac
}
wide() {
    case $1 in
        timing | scheduler | coordinator) echo "--lib --test scheduler --test refresh --test watch --test service --test metrics" ;;
        merge | policy) echo "--lib --test refresh --test service --test errors --test secrets" ;;
        peer) echo "--lib --test errors --test service --test run --test attest --test attest_run" ;;
        sandbox) echo "--lib --test sandbox --test run_sandbox" ;;
        authority) echo "--lib --test authority --test service" ;;
        limits) echo "--lib --test limits --test service --test secrets --test errors --test metrics --test watch --test hostile" ;;
        audit) echo "--lib --test audit --test metrics --test service --test run" ;;
        store) echo "--lib --test store --test refresh --test scheduler --test service --test errors --test cli --test doctor" ;;
    esac
}

if ! "$cache/bin/cargo-mutants" mutants --version >/dev/null 2>&1; then
    cargo install --quiet --locked --root "$cache" cargo-mutants
fi

# One pass over what no pass before has caught: 0 all caught, 2 some missed, 3 some timed out; anything else is an error.
pass() {
    local module=$1 code=0
    shift
    mkdir -p "$out/$module"
    "$cache/bin/cargo-mutants" mutants --config "$here/mutants.toml" --output "$out/$module" --iterate --no-shuffle --jobs 1 \
        --minimum-test-timeout 20 --timeout-multiplier 4 --colors never "$@" || code=$?
    case $code in 0 | 2 | 3) missed=$code ;; *) exit "$code" ;; esac
}

chosen=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    chosen+=("$1")
    shift
done
[ $# -eq 0 ] || shift
[ ${#chosen[@]} -gt 0 ] || chosen=("${modules[@]}")
failed=0
# A file that was moved or emptied must not pass for one without survivors.
for module in "${chosen[@]}"; do
    list=$(files "$module")
    read -ra patterns <<<"$list"
    for pattern in "${patterns[@]}"; do
        [ -n "$("$cache/bin/cargo-mutants" mutants --list --config "$here/mutants.toml" --file "$pattern" --colors never)" ] || {
            echo "$module: there is no mutant in $pattern: correct the list in $0" >&2
            exit 1
        }
    done
done
for module in "${chosen[@]}"; do
    list=$(files "$module")
    read -ra patterns <<<"$list"
    for tests in "$(narrow "$module")" "$(wide "$module")"; do
        echo "== $module: $tests"
        # What is built is told by arguments for all of cargo's calls, or every test would be built for every mutant.
        args=()
        for pattern in "${patterns[@]}"; do args+=(--file "$pattern"); done
        filter=()
        for word in $tests; do
            case $word in *::*) filter=("$word") ;; *) args+=("--cargo-arg=$word") ;; esac
        done
        pass "$module" "${args[@]}" "$@" -- "${filter[@]}"
        [ "$missed" -ne 0 ] || break
    done
    [ "$missed" -ne 2 ] || failed=1
done
exit "$failed"

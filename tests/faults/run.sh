#!/usr/bin/env bash
# What the store does when the system fails it: every system call of a change refused once, the process killed at every
# one of them, a full disk, a power cut. Whatever happens, the old value or the new one is there, and what was reported
# saved is there.
#
# Needs root (it mounts file systems, in a mount namespace of its own) and strace, which it installs by apt if missing.
# One line a check; ends with `N passed, N failed`, and non-zero if any failed.
#
#   tests/faults/run.sh              everything
#   tests/faults/run.sh PART...      parts: calls, broker, full, powercut, flight, audit
set -uo pipefail
cd "$(dirname "$0")/../.."

if [ "$(id -u)" -ne 0 ]; then
    echo "faults: THIS NEEDS ROOT: it mounts small file systems and traces processes; nothing was checked" >&2
    exit 1
fi
if ! command -v strace >/dev/null; then
    apt-get install --yes --quiet strace >/dev/null || { echo "faults: strace cannot be installed" >&2; exit 1; }
fi
if [ "${FAULTS_NAMESPACE:-}" != own ]; then
    cargo build --quiet && cargo test --quiet --test faults --no-run || exit 1
    # The path of the client is in cargo's own words.
    FAULTS_CLIENT=$(cargo test --test faults --no-run --message-format json 2>/dev/null |
        sed -n 's/.*"executable":"\([^"]*\/faults-[^"]*\)".*/\1/p' | tail -n 1)
    export FAULTS_CLIENT FAULTS_NAMESPACE=own
    # What is mounted in there is gone when the last process in it is.
    exec unshare --mount -- "$0" "$@"
fi

bin=${CREDBROKER_BIN:-$PWD/target/debug/credbroker}
# The program would take it for a key of its configuration.
unset CREDBROKER_BIN
client=$FAULTS_CLIENT
work=$(mktemp -d)
passed=0 failed=0 broker=
cleanup() {
    [ -z "$broker" ] || kill -KILL "$broker" 2>/dev/null
    umount "$work"/mnt/* 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

pass() { passed=$((passed + 1)); echo "ok      $1"; }
fail() { failed=$((failed + 1)); echo "FAILED  $1"; }
check() { # check WHAT GOT WANT
    if [ "$2" = "$3" ]; then pass "$1"; else fail "$1: got '$2', expected '$3'"; fi
}

# A home of its own; the store alone may lie elsewhere.
home() { # home [STORE'S PARENT]
    home=$(mktemp -d -p "$work")
    mkdir -m 700 "$home/run"
    export HOME=$home XDG_RUNTIME_DIR=$home/run XDG_CONFIG_HOME=$home/config XDG_STATE_HOME=$home/state
    export XDG_DATA_HOME=${1:-$home/data}
    store=$XDG_DATA_HOME/credbroker
    entry=$store/tokens/70/64656661756c74.age
}
answer() { printf '{"access_token":"%s","refresh_token":"refresh","expires_in":36000}' "$1"; }
import() { answer "$1" | "$bin" token import p >/dev/null 2>&1; }
get() { "$bin" token get p 2>/dev/null || echo "exit-$?"; }
# A change under strace, with one fault. Its exit code is in $code, what it said in $home/said.
faulty() { # faulty EXPRESSION VALUE
    # The shell's own word about who was killed is of no interest.
    { answer "$2" | strace -f -qq -o "$home/trace" -e trace="${1%%:*}" -e inject="$1" \
        "$bin" token import p >"$home/said" 2>&1; } 2>/dev/null
    code=$?
}
# Every name that a system has for a call.
names() {
    case $1 in
    open | mkdir | unlink | link) echo "?$1,?$1at" ;;
    rename) echo '?rename,?renameat,?renameat2' ;;
    fchmod) echo 'fchmod,?fchmodat,?chmod' ;;
    write) echo 'write,?writev,?pwrite64' ;;
    *) echo "$1" ;;
    esac
}
injected() { grep -q -e INJECTED -e '+++ killed by SIGKILL' -e 'SIGKILL' "$home/trace"; }
leftovers() { find "$store" 2>/dev/null -name '*.tmp' | wc -l; }

# One line for every system call and fault; the rounds inside stop at the first that is wrong.
sweep() { # sweep CALL FAULT START, START: old (replaces a value) or none (the first record of a new store)
    local call=$1 fault=$2 start=$3 n=0 wrong= found left before
    while [ -z "$wrong" ]; do
        n=$((n + 1))
        if [ "$start" = none ]; then rm -rf "$store"; before=exit-66; else before=old-$n; import "$before" || wrong="import"; fi
        faulty "$(names "$call"):$fault:when=$n" "new-$n"
        if ! injected; then
            [ "$code" -eq 0 ] || wrong="untouched and yet exit $code"
            break
        fi
        found=$(get) left=$(leftovers)
        case $code in
        0) [ "$found" = "new-$n" ] || wrong="reported saved, but $found is there" ;;
        # Refused (69), killed by us (137), by the loader without a library (127): never a panic (101).
        69 | 70 | 75 | 127 | 137)
            [ "$found" = "new-$n" ] || [ "$found" = "$before" ] || wrong="neither old nor new: $found" ;;
        *) wrong="exit $code: $(tail -n 1 "$home/said")" ;;
        esac
        [ "$code" -eq 137 ] || [ "$call" = unlink ] || [ "$left" -eq 0 ] || wrong=${wrong:-"$left files are left"}
        [ "$left" -le 1 ] || wrong=${wrong:-"$left files are left"}
        import "next-$n" || wrong=${wrong:-"the next import failed"}
        [ "$(get)" = "next-$n" ] || wrong=${wrong:-"the next import is not there"}
        [ "$(leftovers)" -eq 0 ] || wrong=${wrong:-"the next import left $(leftovers) files"}
        [ "$n" -lt 200 ] || wrong="no end"
    done
    local what="import, $start before: $call $fault, $((n - 1)) places"
    [ "$n" -gt 1 ] || wrong=${wrong:-"it is never called"}
    if [ -n "$wrong" ]; then fail "$what: at $n: $wrong"; else pass "$what"; fi
}

# Which call is refused how: what a disk and a kernel can answer.
faults="write:ENOSPC write:EIO fsync:EIO fsync:ENOSPC rename:EIO rename:ENOSPC open:EIO open:ENOSPC unlink:EIO
    flock:EIO mkdir:ENOSPC fchmod:EIO"
kills="write fsync rename open unlink flock mkdir"

part_calls() {
    local start fault call
    home
    for start in old none; do
        for fault in $faults; do sweep "${fault%%:*}" "error=${fault##*:}" "$start"; done
        for call in $kills; do sweep "$call" "signal=KILL" "$start"; done
    done
    # A file system that cannot rename without replacing.
    rm -rf "$store"
    faulty "renameat2:error=EINVAL" first
    check "import, none before: without renameat2" "$code $(get) $(leftovers)" "0 first 0"
}

serve() {
    : >"$home/log"
    "$bin" --log-format json serve --allow p --allow-save p 2>"$home/log" &
    broker=$!
    # It accepts before it says so.
    until grep -q '"serving"' "$home/log"; do
        kill -0 "$broker" 2>/dev/null || { cat "$home/log" >&2; return 1; }
        sleep 0.01
    done
    socket=$XDG_RUNTIME_DIR/credbroker/daemon/sandbox/sock
}
stop() { kill "-${1:-TERM}" "$broker" 2>/dev/null; wait "$broker" 2>/dev/null; broker=; }
ask() { # ask ROLE [TOKEN]
    CREDBROKER_TEST_ROLE=$1 CREDBROKER_TEST_TOKEN=${2:-} CREDBROKER_TEST_SOCKET=$socket \
        "$client" --exact client_in_a_role --nocapture 2>/dev/null | sed -n 's/^client: //p' | grep . || echo no-answer
}
# What another process wrote is seen within a second.
serves() { # serves ANSWER
    local _
    for _ in {1..20}; do
        [ "$(ask get)" != "$1" ] || return 0
        sleep 0.05
    done
    return 1
}
# SaveToken of a running broker with one fault. The answer is in $said.
faulty_save() { # faulty_save EXPRESSION VALUE
    strace -f -qq -o "$home/trace" -e trace="${1%%:*}" -e inject="$1" -p "$broker" 2>"$home/strace" &
    local tracer=$!
    # Every thread of the broker has to be traced before it is asked.
    until [ "$(awk '/^TracerPid:/ && $2 == 0 { n++ } END { print n + 0 }' /proc/"$broker"/task/*/status)" -eq 0 ]; do
        kill -0 "$tracer" 2>/dev/null || break
        sleep 0.01
    done
    said=$(ask save "$2")
    kill -INT "$tracer" 2>/dev/null
    wait "$tracer" 2>/dev/null
}
sweep_save() { # sweep_save CALL FAULT
    local call=$1 fault=$2 n=0 wrong= found
    while [ -z "$wrong" ] && [ "$n" -lt 100 ]; do
        n=$((n + 1))
        import "old-$n" || wrong="import"
        [ -n "$broker" ] || serve || wrong="serve"
        faulty_save "$(names "$call"):$fault:when=$n" "new-$n"
        injected || break
        found=$(get)
        case $said in
        ok) [ "$found" = "new-$n" ] || wrong="reported saved, but $found is there" ;;
        STORE_UNAVAILABLE | STORE_LOCKED | connection-lost | no-answer)
            [ "$found" = "new-$n" ] || [ "$found" = "old-$n" ] || wrong="neither old nor new: $found" ;;
        *) wrong="answered $said" ;;
        esac
        if kill -0 "$broker" 2>/dev/null && [ "$fault" != signal=KILL ]; then
            # What the broker serves is what is stored, and it serves again by itself.
            serves "$found" || wrong=${wrong:-"serves something else than $found"}
            [ "$(ask health)" = serving ] || wrong=${wrong:-"does not become healthy by itself"}
        else
            stop KILL
            serve || wrong="serve again"
        fi
        [ "$(ask save "next-$n")" = ok ] || wrong=${wrong:-"the next save failed"}
        [ "$(get)" = "next-$n" ] || wrong=${wrong:-"the next save is not there"}
        [ "$(leftovers)" -eq 0 ] || wrong=${wrong:-"$(leftovers) files are left"}
    done
    local what="SaveToken: $call $fault, $((n - 1)) places"
    [ "$n" -gt 1 ] || wrong=${wrong:-"it is never called"}
    if [ -n "$wrong" ]; then fail "$what: at $n: $wrong"; else pass "$what"; fi
}

part_broker() {
    home
    local fault call
    for fault in fsync:EIO fsync:ENOSPC rename:EIO rename:ENOSPC unlink:EIO flock:EIO open:EIO open:ENOSPC fchmod:EIO; do
        sweep_save "${fault%%:*}" "error=${fault##*:}"
    done
    for call in fsync rename unlink flock open; do sweep_save "$call" signal=KILL; done
    stop
}

part_full() {
    mkdir -p "$work/mnt/full"
    mount -t tmpfs -o size=256k,mode=700 none "$work/mnt/full" || { fail "a tmpfs can be mounted"; return; }
    home "$work/mnt/full"
    import one; check "full disk: an import before" "$?" 0
    serve || { fail "full disk: the broker starts"; return; }
    check "full disk: healthy before" "$(ask health)" serving
    # Byte by byte at the end, so that not even a short record fits.
    dd if=/dev/zero of="$work/mnt/full/filler" bs=4k 2>/dev/null
    check "full disk: SaveToken says the store is unavailable" "$(ask save two)" STORE_UNAVAILABLE
    check "full disk: the old token is still served" "$(ask get)" one
    check "full disk: the old token is still stored" "$(get)" one
    check "full disk: not serving, as long as nothing can be saved" "$(ask health)" not-serving
    import three; check "full disk: an import fails, too" "$?" 69
    check "full disk: and leaves the old token" "$(get)" one
    check "full disk: nothing is left behind" "$(leftovers)" 0
    rm "$work/mnt/full/filler"
    check "full disk: healthy by itself, once there is room" "$(ask health)" serving
    check "full disk: SaveToken works again" "$(ask save two)" ok
    check "full disk: and is stored" "$(get)" two

    printf 'no age file' >"$entry"
    check "corrupt entry: SaveToken refuses" "$(ask save four)" STORE_CORRUPT
    check "corrupt entry: SaveToken leaves it as it is" "$(cat "$entry")" 'no age file'
    serves STORE_CORRUPT; check "corrupt entry: is not served from memory for long" "$?" 0
    import five; check "corrupt entry: an import replaces it" "$?" 0
    check "corrupt entry: and is stored" "$(get)" five
    stop
    umount "$work/mnt/full"
}

# The power fails: nothing that is in memory reaches the disk any more, not even the journal.
power_cut() {
    perl -e 'open(my $f, "<", shift) or die $!; my $how = pack("L", 2); ioctl($f, 0x8004587d, $how) or die $!' "$mnt/mark" &&
        umount "$mnt" && mount -o loop "$work/disk" "$mnt"
}
part_powercut() {
    mnt=$work/mnt/disk
    mkdir -p "$mnt"
    truncate -s 32M "$work/disk"
    mkfs.ext4 -q "$work/disk" && mount -o loop "$work/disk" "$mnt" ||
        { fail "a disk image can be made and mounted (mkfs.ext4 and a loop device)"; return; }
    echo here >"$mnt/mark"
    sync
    echo lost >"$mnt/unsynced"
    power_cut || { fail "the power can be cut (FS_IOC_SHUTDOWN)"; return; }
    check "power cut: what nobody synced is gone" "$(cat "$mnt/mark" "$mnt/unsynced" 2>/dev/null)" here
    home "$mnt/data"
    import one; check "power cut: the first import ever is reported" "$?" 0
    power_cut
    check "power cut: and is there, with its identity" "$(get)" one
    import two; check "power cut: a second import is reported" "$?" 0
    power_cut
    check "power cut: and is there" "$(get)" two
    serve
    check "power cut: SaveToken is reported" "$(ask save three)" ok
    stop KILL
    power_cut
    check "power cut: and is there" "$(get)" three
    echo api-key | "$bin" key set k 2>/dev/null; check "power cut: an API key is reported stored" "$?" 0
    power_cut
    check "power cut: and is there" "$("$bin" key get k 2>/dev/null)" api-key
    "$bin" key remove k 2>/dev/null; check "power cut: its removal is reported" "$?" 0
    power_cut
    "$bin" key get k >/dev/null 2>&1; check "power cut: and it is gone" "$?" 66

    local start call n wrong found before
    for start in old none; do
        for call in write fsync rename unlink mkdir; do
            n=0 wrong=
            while [ -z "$wrong" ] && [ "$n" -lt 60 ]; do
                n=$((n + 1))
                if [ "$start" = none ]; then rm -rf "$XDG_DATA_HOME"; sync; before=exit-66
                else before=old-$n; import "$before" || wrong="import"; fi
                faulty "$(names "$call"):signal=KILL:when=$n" "new-$n"
                injected || break
                power_cut || wrong="the power cut"
                found=$(get)
                [ "$found" = "new-$n" ] || [ "$found" = "$before" ] || wrong="neither old nor new: $found"
                import "next-$n" || wrong=${wrong:-"the next import failed"}
                [ "$(leftovers)" -eq 0 ] || wrong=${wrong:-"$(leftovers) files are left"}
            done
            if [ -n "$wrong" ]; then fail "power cut at $call, $start before: at $n: $wrong"
            else pass "power cut at $call, $start before: $((n - 1)) places"; fi
        done
    done
    umount "$mnt"
}

# shellcheck source=tests/faults/flight.sh
source tests/faults/flight.sh
# shellcheck source=tests/faults/audit.sh
source tests/faults/audit.sh

parts=(calls broker full powercut flight audit)
[ $# -eq 0 ] || parts=("$@")
for part in "${parts[@]}"; do
    began=$SECONDS
    "part_$part"
    echo "--      $part: $((SECONDS - began)) s"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]

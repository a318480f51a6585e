# A refresh that is killed at every step, and a refresh whose store fails. Sourced by run.sh, whose words it uses.
# shellcheck shell=bash disable=SC2154

# A provider on loopback, and a home that knows it.
provider_starts() { # provider_starts [STORE'S PARENT]
    coproc provider { exec python3 tests/faults/provider.py; }
    IFS= read -r -t 20 port <&"${provider[0]}" || { fail "the provider starts"; return 1; }
    home "$@"
    mkdir -p "$home/config/credbroker"
    printf '[providers.p]\nclient_id = "c"\ntoken_endpoint = "http://127.0.0.1:%s/token"\n' "$port" \
        >"$home/config/credbroker/config.toml"
}
provider_stops() { kill "$provider_PID" 2>/dev/null; wait "$provider_PID" 2>/dev/null; }
at_provider() { curl -sf --get "http://127.0.0.1:$port/$1" "${@:2}"; }
count() { at_provider counts | jq ".$1"; }
login() { at_provider new | "$bin" token import p >/dev/null 2>&1; }
state() { "$bin" status --json 2>/dev/null | jq -r '.entries[0].state'; }
refresh() { said=$("$@" "$bin" token refresh p 2>&1); code=$?; }
later() { env FAKETIME_DONT_FAKE_MONOTONIC=1 faketime "$@"; }

# What a kill may leave: the old token set, the new one, or a mark that says that nobody knows. $wrong says what is wrong.
after_a_kill() {
    local presented rotated
    rotated=$(count rotated) presented=$(count presented)
    [ "$(get)" != exit-65 ] && [ -n "$(state)" ] || wrong="the entry cannot be read"
    refresh
    case $code in
    # Nothing was presented, or what came of it is stored.
    0) [ "$(count reused)" -eq 0 ] || wrong="an old refresh token was presented" ;;
    75)
        [ "$(state)" = ambiguous ] || wrong="the state is $(state)"
        [ "$(count presented)" -eq "$presented" ] || wrong="presented in spite of the mark"
        refresh later +2min
        if [ "$rotated" -eq 0 ]; then
            [ "$code" -eq 0 ] || wrong="the repeat after the mark ended with $code: $said"
        else
            # The answer died with its process.
            [ "$code" -eq 77 ] && grep -q lost <<<"$said" || wrong="the lost answer is not named: $code: $said"
        fi ;;
    *) wrong="exit $code: $said" ;;
    esac
}
sweep_flight() { # sweep_flight CALL
    local call=$1 n=0 wrong=
    while [ -z "$wrong" ] && [ "$n" -lt 200 ]; do
        n=$((n + 1))
        login || wrong="login"
        { strace -f -qq -o "$home/trace" -e trace="$(names "$call")" -e inject="$(names "$call"):signal=KILL:when=$n" \
            "$bin" token refresh p >"$home/said" 2>&1; } 2>/dev/null
        code=$?
        if ! injected; then
            [ "$code" -eq 0 ] || wrong="untouched and yet exit $code"
            break
        fi
        after_a_kill
        [ "$(leftovers)" -le 1 ] || wrong=${wrong:-"$(leftovers) files are left"}
    done
    local what="refresh: $call killed, $((n - 1)) places"
    [ "$n" -gt 1 ] || wrong=${wrong:-"it is never called"}
    if [ -n "$wrong" ]; then fail "$what: at $n: $wrong"; else pass "$what"; fi
}
killed_at_the_provider() { # killed_at_the_provider WHEN
    local wrong=
    login
    at_provider strike --data-urlencode "when=$1" --data-urlencode "command=pkill -KILL -f 'token refresh p'; exit 1" >/dev/null
    { "$bin" token refresh p >"$home/said" 2>&1; } 2>/dev/null
    check "refresh: killed $1 the provider rotated" "$?" 137
    after_a_kill
    check "refresh: killed $1 the provider rotated: then" "$wrong" ""
}

# Killed at a call of the save, when the provider has answered: strace counts the calls of each thread apart, so it is put
# on when the mark is there already.
sweep_late() { # sweep_late CALL
    local call=$1 n=0 wrong=
    while [ -z "$wrong" ] && [ "$n" -lt 50 ]; do
        n=$((n + 1))
        login || wrong="login"
        at_provider strike --data-urlencode when=after --data-urlencode "command=pid=\$(pgrep -f 'token refresh [p]')
strace -f -qq -o '$home/trace' -e trace='$(names "$call")' -e inject='$(names "$call"):signal=KILL:when=$n' -p \$pid >/dev/null 2>&1 &
until awk '/^TracerPid:/ && \$2 == 0 { exit 1 }' /proc/\$pid/task/*/status; do sleep 0.01; done
exit 0" >/dev/null
        { "$bin" token refresh p >"$home/said" 2>&1; } 2>/dev/null
        code=$?
        if [ "$code" -ne 137 ]; then
            [ "$code" -eq 0 ] || wrong="untouched and yet exit $code"
            break
        fi
        after_a_kill
    done
    local what="refresh: $call killed after the answer, $((n - 1)) places"
    [ "$n" -gt 1 ] || wrong=${wrong:-"it is never called"}
    if [ -n "$wrong" ]; then fail "$what: at $n: $wrong"; else pass "$what"; fi
}

# From now on every such call of the broker fails, until `mended`. As a text, because the provider may be the one to do it.
breaks() { # breaks CALL ERROR
    cat <<SH
strace -f -qq -o '$home/trace' -e trace='$(names "$1")' -e inject='$(names "$1"):error=$2' -p $broker >/dev/null 2>&1 &
echo \$! >'$home/tracer'
until awk '/^TracerPid:/ && \$2 == 0 { exit 1 }' /proc/$broker/task/*/status; do sleep 0.01; done
exit 0
SH
}
mended() {
    kill -INT "$(cat "$home/tracer")" 2>/dev/null
    until awk '/^TracerPid:/ && $2 != 0 { exit 1 }' /proc/"$broker"/task/*/status; do sleep 0.01; done
}
becomes() { # becomes WANT COMMAND...: within 20 s
    local _
    for _ in {1..200}; do
        [ "$("${@:2}")" != "$1" ] || return 0
        sleep 0.1
    done
    return 1
}
# What holds while a new token set is in memory only, and what comes of it.
unsaved() { # unsaved NAME TOKEN
    check "$1: the new token is served" "$(ask get)" "$2"
    check "$1: not serving" "$(ask health)" not-serving
    check "$1: the state" "$(state)" unsaved
    local said code
    said=$("$bin" token import p 2>&1 <<<'{"access_token":"other"}'); code=$?
    check "$1: another process gets no lock" "$code" 75
    grep -q "pid $broker, unsaved" <<<"$said"; check "$1: and is told who has it" "$?" 0
}
saved_later() { # saved_later NAME TOKEN
    becomes "$2" get; check "$1: saved by itself" "$?" 0
    becomes serving ask health; check "$1: serving again" "$?" 0
    check "$1: no refresh token came twice" "$(count reused)" 0
    refresh; check "$1: the lock is free, and the new refresh token good" "$code" 0
}

part_flight() {
    local call
    for call in jq curl python3 faketime; do
        command -v "$call" >/dev/null || apt-get install --yes --quiet "$call" >/dev/null || { fail "$call can be installed"; return; }
    done
    provider_starts || return
    login; refresh
    check "refresh: nothing in its way" "$code $(count rotated)" "0 1"
    for call in open write fsync rename flock; do sweep_flight "$call"; done
    for call in open write fsync rename; do sweep_late "$call"; done
    killed_at_the_provider before
    killed_at_the_provider after

    login; serve
    local before
    before=$(get)
    sh -c "$(breaks fsync EIO)"
    said=$(ask refresh)
    check "refresh: no mark can be written: the answer" "$said" STORE_UNAVAILABLE
    check "refresh: no mark can be written: nothing is presented" "$(count presented)" 0
    check "refresh: no mark can be written: the old token is served" "$(ask get)" "$before"
    mended
    stop
    local fault
    for fault in fsync:EIO rename:ENOSPC; do
        login; serve
        local name="refresh: the save fails with ${fault#*:} at ${fault%:*}" token
        at_provider strike --data-urlencode when=after --data-urlencode "command=$(breaks "${fault%:*}" "${fault#*:}")" >/dev/null
        token=$(ask refresh)
        check "$name: the answer" "${token#access-*-}" 1
        unsaved "$name" "$token"
        mended
        saved_later "$name" "$token"
        stop
    done
    provider_stops

    mkdir -p "$work/mnt/flight"
    mount -t tmpfs -o size=256k,mode=700 none "$work/mnt/flight" || { fail "a tmpfs can be mounted"; return; }
    provider_starts "$work/mnt/flight" || return
    login; serve
    at_provider strike --data-urlencode when=after \
        --data-urlencode "command=dd if=/dev/zero of=$work/mnt/flight/filler bs=4k 2>/dev/null; exit 0" >/dev/null
    local token
    token=$(ask refresh)
    check "refresh: the disk is full: the answer" "${token#access-*-}" 1
    unsaved "refresh: the disk is full" "$token"
    rm "$work/mnt/flight/filler"
    saved_later "refresh: the disk is full" "$token"
    stop
    provider_stops
    umount "$work/mnt/flight"
}

# The audit on a disk that is full, for both settings of `on_full`. Sourced by run.sh, whose words it uses.
# shellcheck shell=bash disable=SC2154

audited() { "$bin" audit show --json --entry p 2>/dev/null | grep -c '"operation":"GetToken".*"outcome":"ok"'; }
verified() { "$bin" audit verify >"$home/verified" 2>&1; echo "$?"; }

part_audit() {
    local on_full answer delivered lost mnt=$work/mnt/audit
    mkdir -p "$mnt"
    for on_full in refuse serve; do
        mount -t tmpfs -o size=64k,mode=700 none "$mnt" || { fail "a tmpfs can be mounted"; return; }
        home
        import one; check "audit, $on_full: an import before" "$?" 0
        CREDBROKER_AUDIT_PATH=$mnt CREDBROKER_AUDIT_ON_FULL=$on_full serve ||
            { fail "audit, $on_full: the broker starts"; return; }
        export CREDBROKER_AUDIT_PATH=$mnt
        delivered=0
        check "audit, $on_full: a token while there is room" "$(ask get)" one
        dd if=/dev/zero of="$mnt/filler" bs=4k 2>/dev/null
        # What is left of the file's last page still takes some lines.
        for _ in $(seq 40); do
            answer=$(ask get)
            [ "$answer" = one ] || break
            delivered=$((delivered + 1))
        done
        delivered=$((delivered + 1))
        if [ "$on_full" = refuse ]; then
            check "audit, refuse: no token on a full disk" "$answer" STORE_UNAVAILABLE
            check "audit, refuse: nor by a save" "$(ask save two)" STORE_UNAVAILABLE
            check "audit, refuse: which has saved nothing" "$(get)" one
            check "audit, refuse: not serving" "$(ask health)" not-serving
        else
            check "audit, serve: tokens on a full disk" "$answer $delivered" "one 41"
            check "audit, serve: serving" "$(ask health)" serving
        fi
        rm "$mnt/filler"
        for _ in $(seq 100); do
            answer=$(ask get)
            [ "$answer" = one ] && break
            sleep 0.1
        done
        check "audit, $on_full: tokens by itself, once there is room" "$answer" one
        delivered=$((delivered + 1))
        check "audit, $on_full: serving again" "$(ask health)" serving
        stop
        check "audit, $on_full: the record is whole" "$(verified)" 0
        lost=$(sed -n 's/^ *\([0-9]*\) records were lost.*/\1/p' "$home/verified")
        check "audit, $on_full: each token is recorded or told as lost" "$(($(audited) + ${lost:-0}))" "$delivered"
        if [ "$on_full" = refuse ]; then
            check "audit, refuse: none is lost" "${lost:-0}" 0
        else
            [ "${lost:-0}" -gt 0 ]; check "audit, serve: some are lost" "$?" 0
        fi
        unset CREDBROKER_AUDIT_PATH
        umount "$mnt"
    done
}

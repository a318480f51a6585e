#!/usr/bin/env bash
# The units of examples/systemd by systemd's own judgement, and socket activation by systemd's own tool.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

need systemd-socket-activate systemd
need systemd-analyze systemd
need strace strace
need python3 python3-venv
units=$root/examples/systemd
judged=$fixture/units

# The program is where it is built, not where the units install it.
for unit in "$units"/{user,system}/credbroker.{service,socket}; do
  mkdir -p "$judged/$(basename "$(dirname "$unit")")"
  sed "s|^ExecStart=[^ ]*|ExecStart=$CREDBROKER_BIN|" "$unit" >"$judged/${unit#"$units"/}"
done

verified() { # verified KIND FLAG...: that systemd has nothing to say about the units.
  local said
  # It makes a directory of its own there.
  mkdir -p "$fixture/manager"
  said=$(XDG_RUNTIME_DIR=$fixture/manager systemd-analyze "${@:2}" --man=no verify \
    "$judged/$1"/credbroker.{service,socket} 2>&1) || { printf '%s\n' "$said"; return 1; }
  printf '%s\n' "$said"
  ! grep -q "$judged" <<<"$said"
}
exposed() { # exposed KIND: that the exposure is what docs/operations.md says, and no more.
  local stated found
  stated=$(sed -nE "s,^\| \`$1/credbroker.service\` \| ([0-9]+\.[0-9]) \|.*,\1,p" "$root/docs/operations.md")
  [[ -n $stated ]] || { echo "docs/operations.md states no exposure for $1"; return 1; }
  found=$(systemd-analyze security --offline=yes --no-pager "$judged/$1/credbroker.service" |
    sed -nE 's/.*Overall exposure level for credbroker.service: ([0-9.]+).*/\1/p')
  echo "stated $stated, found $found"
  awk -v stated="$stated" -v found="$found" 'BEGIN { exit !(found != "" && found <= stated) }'
}
# The level is rounded, so that one line less in a unit may not show in it: what is not taken away is a list.
open_to() { # open_to KIND: every setting that systemd counts and the unit does not make.
  systemd-analyze security --offline=yes --json=short "$judged/$1/credbroker.service" | python3 -c '
import json, sys
print(*sorted(row["json_field"] for row in json.load(sys.stdin) if row["set"] is False), sep="\n")'
}
no_more_open() {
  open_to "$1" >"$fixture/open"
  [[ -s $fixture/open ]] || return
  sed -n "s/^$1 //p" "$interop/systemd/exposed.txt" | LC_ALL=C sort | LC_ALL=C comm -13 - "$fixture/open" | tee "$fixture/more"
  [[ ! -s $fixture/more ]]
}
check "the system's units: verify" verified system
check "a user's units: verify" verified user --user
check "the system's service: exposure" exposed system
check "a user's service: exposure" exposed user
check "the system's service: nothing more is left open" no_more_open system
check "a user's service: nothing more is left open" no_more_open user

# What the filter lets through, against what the broker does: what is not in @system-service, or taken out of it, would end
# in EPERM where nobody looks.
names() { # names SET: every system call of a set, and of the sets in it.
  systemd-analyze syscall-filter --no-pager "$1" | sed -nE 's/^    ([a-z0-9_@-]+).*/\1/p' | while read -r name; do
    case $name in
      @*) names "$name" ;;
      *) echo "$name" ;;
    esac
  done
}
traced() {
  local unit=$1
  local lets=$fixture/lets takes=$fixture/takes
  local more='landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp'
  grep -qx 'SystemCallFilter=@system-service' "$unit" && grep -qx 'SystemCallFilter=~@privileged @resources' "$unit" || return
  grep -qx "SystemCallFilter=$more" "$unit" || return
  { names @system-service; names @default; } | sort -u >"$lets"
  { names @privileged; names @resources; } | sort -u >"$takes"
  [[ $(wc -l <"$lets") -gt 200 && $(wc -l <"$takes") -gt 30 ]] || { wc -l "$lets" "$takes"; return 1; }
  # strace itself starts the broker, so its first execve is not the broker's.
  sed -nE 's/^([0-9]+ +)?([a-z0-9_]+)\(.*/\2/p' "$fixture/trace" | sort -u >"$fixture/used"
  [[ $(wc -l <"$fixture/used") -gt 30 ]] || { cat "$fixture/used"; return 1; }
  { comm -23 "$lets" "$takes"; tr ' ' '\n' <<<"$more"; } | sort -u >"$fixture/through"
  comm -23 "$fixture/used" "$fixture/through" | tee "$fixture/beyond"
  [[ ! -s $fixture/beyond ]]
}

# shellcheck disable=SC2016
on_host setsid --wait bash -c 'echo $$ >>"$0"; exec "$@"' "$fixture/sessions" \
  python3 "$interop/systemd/activation.py" "$CREDBROKER_BIN" "$fixture" 2>>"$fixture/stderr"
for kind in system user; do
  check "the $kind's filter lets through what the broker does" traced "$units/$kind/credbroker.service"
done

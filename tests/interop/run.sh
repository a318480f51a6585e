#!/usr/bin/env bash
# Runs stock gRPC clients and tools against a built credbroker: run.sh [RING...]. See README.md.
cd "$(dirname "$0")"
# shellcheck source=tests/interop/lib.sh
source lib.sh

all=(python python-old node go java grpcurl buf age systemd metrics kubernetes oidc git envoy login clients sandbox-run sandboxes)
rings=("${@:-${all[@]}}")

if [[ -z ${CREDBROKER_BIN:-} ]]; then
  for build in release debug; do
    if [[ -x $root/target/$build/credbroker ]]; then
      CREDBROKER_BIN=$root/target/$build/credbroker
      break
    fi
  done
fi
[[ -x ${CREDBROKER_BIN:-} ]] || die "no credbroker: build one, or name it in CREDBROKER_BIN"
CREDBROKER_BIN=$(realpath "$CREDBROKER_BIN")
export CREDBROKER_BIN
mkdir -p "$cache"

work=$(mktemp -d)
results=$work/results
touch "$results"
# Ends what an interrupted ring left, one process at a time, and only if its environment says that it is this run's: the
# number of a session that has ended may be somebody else's by now. A broker follows the command it runs.
finish() {
  local session pid
  while read -r session; do
    for pid in $(pgrep -s "$session" || true); do
      if grep -qzxF "XDG_RUNTIME_DIR=${fixture:-none}/runtime" "/proc/$pid/environ" 2>/dev/null; then
        kill -KILL "$pid" || true
      fi
    done
  done < <(cat "${fixture:-none}/sessions" 2>/dev/null)
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

# What a ring must not leave: processes of its sessions, and anything but the lock in the runtime directory.
nothing_left() {
  local session
  if [[ -f $fixture/sessions ]]; then
    while read -r session; do
      if pgrep -a -s "$session"; then
        return 1
      fi
    done <"$fixture/sessions"
    # Nothing at all, where every broker had another runtime directory.
    [[ -n $(ls -A "$fixture/runtime") ]] || return 0
    [[ $(ls -A "$fixture/runtime") = credbroker && $(ls -A "$fixture/runtime/credbroker") = lock ]] ||
      { ls -AR "$fixture/runtime"; return 1; }
  fi
}

for ring in "${rings[@]}"; do
  [[ -f $ring/ring.sh ]] || die "no ring is called $ring; there are: ${all[*]}"
done

for ring in "${rings[@]}"; do
  started=$SECONDS
  fixture=$work/$ring
  export fixture
  make_fixture "$fixture" 2>"$work/fixture" || die "cannot fill the store: $(<"$work/fixture")"
  status=0
  bash "$ring/ring.sh" </dev/null >"$fixture/results" || status=$?
  {
    sed "s/^\(not \)\?ok /&$ring: /" "$fixture/results"
    ((status == 0)) || echo "not ok $ring: the ring ended with status $status"
    grep -q '^\(not \)\?ok ' "$fixture/results" || echo "not ok $ring: nothing was looked at"
    check "$ring: nothing is left behind" nothing_left
  } | tee -a "$results"
  if [[ -s $fixture/stderr ]] && grep -q "^not ok $ring:" "$results"; then
    sed 's/^/  stderr: /' "$fixture/stderr"
  fi
  echo "# $ring took $((SECONDS - started)) s"
done

passed=$(grep -c '^ok ' "$results" || true)
failed=$(grep -c '^not ok ' "$results" || true)
echo "$passed passed, $failed failed"
((failed == 0 && passed > 0))

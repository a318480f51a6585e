#!/usr/bin/env bash
# A soak: tokens of 5 seconds, 50 clients and two brokers on one store, for SOAK_MINUTES (10), while clients and brokers are
# killed and stopped, the provider fails in every way, and clocks are set. Ends with a summary, and non-zero if any promise
# was broken or anything did not happen. See README.md.
#
# Needs root: a broker is not dumpable, and its descriptors can be counted by root alone.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../interop/lib.sh"

here=$(cd "$(dirname "$0")" && pwd)
[[ $(id -u) = 0 ]] || die "the soak needs root: it counts the descriptors of brokers, which are not dumpable"
for build in cold/release release; do
  [[ -n ${CREDBROKER_BIN:-} ]] || [[ ! -x $root/target/$build/credbroker ]] || CREDBROKER_BIN=$root/target/$build/credbroker
done
[[ -x ${CREDBROKER_BIN:-} ]] || die "no credbroker: build one with cargo build --release, or name it in CREDBROKER_BIN"
CREDBROKER_BIN=$(realpath "$CREDBROKER_BIN")

need faketime faketime
faketime=$(find /usr/lib /lib -name libfaketimeMT.so.1 -print -quit)
[[ -n $faketime ]] || die "libfaketimeMT.so.1 is nowhere below /usr/lib"

fixture=$(mktemp -d)
finish() {
  local status=$? session pid
  # Only what says by its environment that it is this run's: the number of a session may be somebody else's by now.
  while read -r session; do
    for pid in $(pgrep -s "$session" || true); do
      if grep -qzxF "XDG_RUNTIME_DIR=$fixture/runtime" "/proc/$pid/environ" 2>/dev/null; then
        kill -KILL "$pid" 2>/dev/null || true
      fi
    done
  done < <(cat "$fixture/sessions" 2>/dev/null)
  if ((status == 0)) || [[ -z $(ls -A "$fixture/logs" 2>/dev/null) ]]; then
    rm -rf "$fixture"
  else
    echo "soak: what the processes wrote is kept in $fixture" >&2
  fi
}
trap finish EXIT
trap 'exit 130' INT TERM

npm_packages oidc
# Beside the packages that it imports, under a name of its own: a ring may be running.
cp "$interop/oidc/server.mjs" "$cache/oidc/soak.mjs"
protoc --python_out="$fixture" --grpc_python_out="$fixture" credbroker/v1/credential_broker.proto

mkdir -m 0700 "$fixture"/{runtime,data,state,config,host,tmp,logs,a,b}
# shellcheck disable=SC2016
SOAK_FIXTURE=$fixture SOAK_BINARY=$CREDBROKER_BIN SOAK_SERVER=$cache/oidc/soak.mjs SOAK_FAKETIME=$faketime \
  PYTHONPATH=$here:$fixture PYTHONDONTWRITEBYTECODE=1 \
  on_host setsid --wait bash -c 'echo $$ >>"$0"; exec "$@"' "$fixture/sessions" \
  "$cache/python/bin/python" -u "$here/soak.py" &
wait $!

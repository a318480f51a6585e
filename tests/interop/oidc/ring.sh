#!/usr/bin/env bash
# npm's oidc-provider, with rotation and reuse detection: two brokers on one store, 40 clients, for OIDC_SECONDS.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

seconds=${OIDC_SECONDS:-60}
need jq jq
need curl curl
npm_packages oidc
cp "$interop/oidc/server.mjs" "$cache/oidc"
protoc --python_out="$fixture" --grpc_python_out="$fixture" credbroker/v1/credential_broker.proto
export PYTHONPATH=$fixture PYTHONDONTWRITEBYTECODE=1

coproc server { exec node "$cache/oidc/server.mjs" 2>>"$fixture/stderr"; }
IFS= read -r -t 30 provider <&"${server[0]}" || die "the provider did not start"
of() { jq -r ".$1" <<<"$provider"; }

configure_provider idp "$(of client_id)"
import_login idp 2>>"$fixture/stderr"

export OIDC_SECONDS=$seconds
OIDC_PROVIDER=$(jq -c 'del(.refresh_token, .steady)' <<<"$provider")
export OIDC_PROVIDER
side() {
  # shellcheck disable=SC2016
  on_host setsid --wait bash -c 'echo $$ >>"$0"; exec "$@"' "$fixture/sessions" \
    "$CREDBROKER_BIN" run --allow idp -- "$cache/python/bin/python" "$interop/oidc/clients.py"
}
side >"$fixture/one" 2>>"$fixture/stderr" &
one=$!
side >"$fixture/two" 2>>"$fixture/stderr" &
two=$!
check "every token of the first broker is active" wait "$one"
check "every token of the second broker is active" wait "$two"
sed 's/^/# /' "$fixture/one" "$fixture/two"

counts=$(curl -sf "$(of counts)")
echo "# the provider: $counts"
counted() { jq -e "$1" <<<"$counts" >/dev/null; }
check "the provider refused nothing" counted '.refused == 0'
check "no refresh token was used twice" counted '.revoked == 0'
# A token of 5 s is renewed after 2 to 2.5 s: twice that many refreshes would be each broker's own.
check "one refresh for each rotation" counted ".refreshed >= $seconds / 5 and .refreshed <= $seconds / 1.9 + 2"

shows_ok() { on_host "$CREDBROKER_BIN" status --json | jq -e '.entries[] | select(.provider == "idp") | .state == "ok"'; }
check "status shows the entry" shows_ok

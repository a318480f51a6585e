#!/usr/bin/env bash
# world.sh LANGUAGE: the tests of one client package, with what they find there; see README.md.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

language=$1
seconds=${CLIENTS_SECONDS:-60}
ring=$fixture
fixture=$ring/$language
make_fixture "$fixture" 2>>"$ring/stderr"
mkdir "$fixture/work"

coproc server { exec node "$interop/clients/resource.mjs" "$cache/oidc/server.mjs" 2>>"$ring/stderr"; }
IFS= read -r -t 60 provider <&"${server[0]}" || die "the provider did not start"
of() { jq -r ".$1" <<<"$provider"; }

configure_provider acme "$(of client_id)"
import_login acme 2>>"$ring/stderr"

# The runtime directory and the sessions are the ring's, which is searched for what is left.
# shellcheck disable=SC2016
check "$language" on_host setsid --wait bash -c 'echo $$ >>"$0"; exec "$@"' "$ring/sessions" \
  env XDG_RUNTIME_DIR="$ring/runtime" "$CREDBROKER_BIN" run \
  --allow acme --allow github --allow absent --allow-key openai --allow-key absent -- \
  env CREDBROKER_BIN="$CREDBROKER_BIN" CLIENT_WORK="$fixture/work" TEST_SECONDS="$seconds" \
  TEST_RESOURCE_URL="$(of resource)" TEST_LOGIN_SERVER="$cache/login/server.mjs" TEST_LOGIN_PERSON="$interop/login" \
  "$root/clients/$language/ci.sh"
[[ -z ${CLIENTS_LOGS:-} ]] || cp "$fixture/out" "$CLIENTS_LOGS/$language.log"

counts=$(curl -sf "$(of counts)")
echo "# $language: the provider: $counts"
counted() { jq -e "$1" <<<"$counts" >/dev/null; }
check "$language: the provider refused nothing" counted '.refused == 0 and .revoked == 0'
check "$language: its token was renewed all the time" counted ".refreshed >= $seconds / 5"

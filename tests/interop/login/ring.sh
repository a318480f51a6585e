#!/usr/bin/env bash
# Logins against npm's oidc-provider, as people make them: in every flow, in the sandbox and on the host.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

need python3 python3
need ps procps
npm_packages login
cp "$interop/login/server.mjs" "$cache/login"
mkdir "$fixture/records"
export LOGIN_FIXTURE=$fixture LOGIN_BINARY=$CREDBROKER_BIN LOGIN_SERVER=$cache/login/server.mjs PYTHONDONTWRITEBYTECODE=1

# shellcheck disable=SC2016
on_host setsid --wait bash -c 'echo $$ >>"$0"; exec "$@"' "$fixture/sessions" \
  python3 "$interop/login/logins.py" 2>>"$fixture/stderr"

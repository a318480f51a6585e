#!/usr/bin/env bash
# The newest grpcio and its asynchronous API.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

protoc --python_out="$fixture" --grpc_python_out="$fixture" credbroker/v1/credential_broker.proto
export PYTHONPATH=$fixture PYTHONDONTWRITEBYTECODE=1
python=$cache/python/bin/python

check "client.py" says '^authorization: Bearer gho_demo$' in_sandbox "$python" "$interop/python/client.py"
client "grpc" "$python" "$interop/python/checks.py"
client "grpc.aio" "$python" "$interop/python/checks.py" aio

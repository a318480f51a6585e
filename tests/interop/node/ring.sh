#!/usr/bin/env bash
# @grpc/grpc-js with the .proto file loaded at run time.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

npm_packages node
cp "$interop"/node/*.js "$cache/node"

export PROTO_DIR=$root/proto
client "grpc-js" node "$cache/node/checks.js"

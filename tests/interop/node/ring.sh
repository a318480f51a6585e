# @grpc/grpc-js with the .proto file loaded at run time.
# shellcheck shell=bash
npm_packages node
cp "$interop"/node/*.js "$cache/node"

export PROTO_DIR=$root/proto
client "grpc-js" node "$cache/node/checks.js"

#!/usr/bin/env bash
# grpc-go with stubs by protoc-gen-go and protoc-gen-go-grpc.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

export GOMODCACHE=$cache/go/modules GOCACHE=$cache/go/build GOFLAGS="${GOFLAGS:-} -modcacherw" GOBIN=$cache/go/bin
need_go
build=$fixture/build
mkdir -p "$build/gen" "$GOBIN"
cp "$interop"/go/{go.mod,go.sum,*.go} "$build"
cd "$build"
go build -o "$GOBIN" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc >&2
package=credbroker/v1/credential_broker.proto=credbroker.dev/interop/gen
protoc --plugin="$GOBIN/protoc-gen-go" --plugin="$GOBIN/protoc-gen-go-grpc" \
  --go_out="$build" --go_opt=module=credbroker.dev/interop,M"$package" \
  --go-grpc_out="$build" --go-grpc_opt=module=credbroker.dev/interop,M"$package" credbroker/v1/credential_broker.proto
go vet . >&2
go build -o "$build/client" . >&2

client "grpc-go" "$build/client"

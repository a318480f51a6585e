#!/usr/bin/env bash
# The manifests of examples/kubernetes by Kubernetes' own schemas, and the commands in them against a real broker: no
# cluster is started.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

need python3 python3-venv
need setpriv util-linux
cached kubernetes "$interop/kubernetes/requirements.txt" make_venv python3 "$interop/kubernetes/requirements.txt"
need_go
export GOMODCACHE=$cache/go/modules GOCACHE=$cache/go/build GOFLAGS="${GOFLAGS:-} -modcacherw"
version=v0.4.40
module=github.com/grpc-ecosystem/grpc-health-probe
build_probe() { # As it is called in releases and images. By a go.mod, which asks for no list of versions.
  printf 'module probe\n\ngo 1.25\n\nrequire %s %s\n' "$module" "$version" >go.mod
  go build -mod=mod -o grpc_health_probe "$module"
}
echo "$version" >"$fixture/probe-version"
cached grpc-health-probe "$fixture/probe-version" build_probe
mkdir -p "$fixture/bin"
cp "$cache/grpc-health-probe/grpc_health_probe" "$fixture/bin"

# shellcheck disable=SC2016
on_host setsid --wait bash -c 'echo $$ >>"$0"; exec "$@"' "$fixture/sessions" \
  "$cache/kubernetes/bin/python" "$interop/kubernetes/manifests.py" "$CREDBROKER_BIN" "$root/examples/kubernetes" "$fixture" \
  2>>"$fixture/stderr"

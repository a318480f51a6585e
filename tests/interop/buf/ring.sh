#!/usr/bin/env bash
# The shape of the .proto files, that they only grow, and `buf curl` as a client.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

npm_packages buf
need git git
buf=$cache/buf/node_modules/.bin/buf
cd "$root"

check "lint" "$buf" lint
check "format" "$buf" format -d --exit-code

# Growth is measured from the newest release and from main, or, on main itself, from the commit before. What there is not
# (no release yet, a first commit) has nothing to be compared with; a shallow clone would hide it and is refused.
[[ $(git rev-parse --is-shallow-repository) = false ]] || die "the buf ring needs the history: clone with full depth"
bases() {
  local main
  main=$(git rev-parse -q --verify origin/main^0 || git rev-parse -q --verify main^0) || die "there is no branch main"
  if [[ $main = $(git rev-parse HEAD) ]]; then
    git rev-parse -q --verify HEAD~1 || true
  else
    git merge-base HEAD "$main"
  fi
  git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true
}
bases >"$fixture/bases"
while read -r base; do
  mkdir -p "$fixture/$base"
  if git archive "$base" proto 2>/dev/null | tar -x -C "$fixture/$base" 2>/dev/null; then
    check "breaking since ${base:0:12}" "$buf" breaking --against "$fixture/$base/proto"
  fi
done <"$fixture/bases"

# That `buf breaking` would see a change: the same files with a renumbered field.
cp -r proto buf.yaml "$fixture"
sed -i 's/string access_token = 1;/string access_token = 9;/' "$fixture/proto/credbroker/v1/credential_broker.proto"
check "breaking is noticed" says 'credential_broker.proto:.*access_token' "$buf" breaking "$fixture" --against "$root"

# shellcheck disable=SC2016
cat >"$fixture/call" <<'END'
set -euo pipefail
capability() { printf 'authorization: Bearer %s\n' "$CREDBROKER_CAPABILITY"; }
method=$1 request=$2
shift 2
"$buf" curl --unix-socket "$CREDBROKER_SOCKET" --http2-prior-knowledge --protocol grpc \
  --header @<(capability) --data "$request" "$@" "http://localhost/$method"
END
export buf
call() { in_sandbox bash "$fixture/call" "$@"; }
broker=credbroker.v1.CredentialBroker

for reflection in grpc-v1 grpc-v1alpha; do
  check "curl with reflection $reflection" says '"accessToken": ?"gho_demo"' \
    call $broker/GetToken '{"provider":"github"}' --reflect --reflect-protocol $reflection
done
check "curl with the .proto files" says '"apiKey": ?"sk-demo"' \
  call $broker/GetApiKey '{"name":"openai"}' --schema "$root"
check "curl: no refresh token" hides ghr_never call $broker/GetToken '{"provider":"github"}'
check "curl: health" says SERVING call grpc.health.v1.Health/Check '{}'

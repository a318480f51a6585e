#!/usr/bin/env bash
# The packages of clients/, each installed in a fresh place with its own tests, in a sandbox of its own with a real provider
# whose tokens live for 5 seconds. All at once, because each uses its token for CLIENTS_SECONDS (60). CLIENTS names some.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

languages=()
for ci in "$root"/clients/*/ci.sh; do
  language=$(basename "$(dirname "$ci")")
  [[ -f $ci && " ${CLIENTS:-$language} " = *" $language "* ]] && languages+=("$language")
done
((${#languages[@]})) || die "there is no client in clients/"
for language in ${CLIENTS:-}; do
  [[ -f $root/clients/$language/ci.sh ]] || die "there is no such client in clients/: $language"
done

need jq jq
need curl curl
npm_packages oidc
npm_packages login
cp "$interop/oidc/server.mjs" "$cache/oidc"
cp "$interop/login/server.mjs" "$cache/login"
for language in "${languages[@]}"; do
  case $language in
    go)
      need_go
      # For its race detector.
      need gcc gcc libc6-dev
      ;;
    node) need npm nodejs npm ;;
    python) need python3 python3-venv ;;
  esac
done

check "the stubs are what proto/ makes" "$root/clients/generate" --check
for language in "${languages[@]}"; do
  bash "$interop/clients/world.sh" "$language" >"$fixture/$language.results" &
  worlds+=("$!")
done
for i in "${!languages[@]}"; do
  status=0
  wait "${worlds[i]}" || status=$?
  cat "$fixture/${languages[i]}.results"
  ((status == 0)) || echo "not ok ${languages[i]}: its world ended with status $status"
done

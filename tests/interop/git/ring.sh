#!/usr/bin/env bash
# Git over HTTP with `credbroker git-credential`: a real server (git http-backend) that asks a real provider (npm's
# oidc-provider, 5-second tokens, rotation) about every password; in a sandbox and on the host.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

need git git ca-certificates
need python3 python3-venv
need jq jq
need curl curl
need script bsdutils
npm_packages oidc
cp "$interop/oidc/server.mjs" "$cache/oidc"
echo "# $(git --version)"

coproc provider { exec node "$cache/oidc/server.mjs" 2>>"$fixture/stderr"; }
IFS= read -r -t 30 told <&"${provider[0]}" || die "the provider did not start"
of() { jq -r ".$1" <<<"$told"; }

# --- the git server, with its repositories --------------------------------------------------------------------------------

export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=$fixture/gitconfig GIT_TERMINAL_PROMPT=0
helper="!'$CREDBROKER_BIN' git-credential"
git config --global user.name ring
git config --global user.email ring@example.com
git config --global init.defaultBranch main
git config --global credential.helper "$helper"

mkdir "$fixture/repositories" "$fixture/work"
for name in one slow; do
  git init -q --bare "$fixture/repositories/$name.git"
  git init -q "$fixture/seed-$name"
done
echo one >"$fixture/seed-one/file"
# Random bytes, which no packing makes small, so that there is something to send slowly.
head -c 400000 /dev/urandom >"$fixture/seed-slow/file"
for name in one slow; do
  git -C "$fixture/seed-$name" add file
  git -C "$fixture/seed-$name" commit -qm first
  git -C "$fixture/seed-$name" push -q "$fixture/repositories/$name.git" main
done

export REQUESTS=$fixture/requests TOKENS=$fixture/tokens
touch "$REQUESTS" "$TOKENS"
# Its standard input is this shell's to close, so it ends with the ring.
# shellcheck disable=SC2034
exec {server}> >(OIDC_PROVIDER=$(jq -c 'del(.refresh_token, .steady)' <<<"$told") SLOW=7 \
  GIT_PROJECT_ROOT=$fixture/repositories exec python3 "$interop/git/server.py" >"$fixture/port" 2>>"$fixture/stderr")
for _ in {1..100}; do
  [[ -s $fixture/port ]] && break
  sleep 0.1
done
port=$(<"$fixture/port")
[[ -n $port ]] || die "the git server did not start"
# One server under two names: the account of the first has tokens of 5 s, that of the second tokens of an hour.
base=http://127.0.0.1:$port steady=http://localhost:$port

# --- what the host stores -------------------------------------------------------------------------------------------------

configure_provider idp "$(of client_id)"
configure_provider steady "$(of steady.client_id)"
cat >>"$fixture/config/credbroker/config.toml" <<TOML
[git."127.0.0.1:$port"]
entry = "idp"

[git."localhost:$port"]
entry = "steady"

[git."git.example"]
entry = "idp"
TOML
import_login idp 2>>"$fixture/stderr"
jq '{access_token: .steady.access_token, refresh_token: .steady.refresh_token, expires_in: 3600}' <<<"$told" |
  on_host "$CREDBROKER_BIN" token import steady 2>>"$fixture/stderr"

# --- how it is asked ------------------------------------------------------------------------------------------------------

sandboxed() {
  # shellcheck disable=SC2016
  on_host setsid --wait bash -c 'echo $$ >>"$0"; exec "$@"' "$fixture/sessions" \
    "$CREDBROKER_BIN" run --allow idp --allow steady -- "$@"
}
# requests FILTER: whether it holds for all requests that the server has had.
requests() { jq -se "$1" "$REQUESTS" >/dev/null || { jq -sc '.[-8:][]' "$REQUESTS"; false; }; }
counts() { curl -sf "$(of counts)" | jq "$1"; }
export CREDBROKER=$CREDBROKER_BIN
export base steady

# --- on the host ----------------------------------------------------------------------------------------------------------

check "host: git clone" on_host git clone -q "$base/one.git" "$fixture/work/host"
host_pushes() {
  echo host >"$fixture/work/host/file" && git -C "$fixture/work/host" commit -qam host &&
    on_host git -C "$fixture/work/host" push -q origin main
}
check "host: git push" host_pushes
# A token of 5 s has at least half of them left when git gets it, so it changes every 2.5 s; without that, every 4.5 s.
renews_ahead() {
  local end=$((SECONDS + 13)) seen
  seen=$(while ((SECONDS < end)); do
    on_host git credential fill <<<"url=$base/one.git" | grep ^password= || return 1
  done | sort -u | wc -l)
  echo "$seen tokens"
  ((seen >= 5))
}
check "host: git gets tokens that are good for a while" renews_ahead

# --- in a sandbox ---------------------------------------------------------------------------------------------------------

check "sandbox: git clone" sandboxed git clone -q "$base/one.git" "$fixture/work/sandbox"
pushes_across_rotations() {
  : >"$REQUESTS"
  # shellcheck disable=SC2016
  sandboxed bash -c '
    cd "$1" || exit
    for ((i = 0; i < 60; i++)); do
      echo "$i" >file && git commit -qam "$i" && git push -q origin main || exit
      tokens=$(jq -sr "[.[] | select(.method == \"POST\" and .status == 200) | .token] | unique | length" "$REQUESTS")
      if ((tokens >= 4)); then
        echo "$((i + 1)) pushes, $tokens tokens"
        exit 0
      fi
      sleep 0.5
    done
    exit 1' - "$fixture/work/sandbox" &&
    [[ $(git -C "$fixture/work/sandbox" rev-parse main) = $(git -C "$fixture/repositories/one.git" rev-parse main) ]]
}
check "sandbox: git push, one after the other, across three rotations" pushes_across_rotations
check "sandbox: no push had a refused token" requests '[.[] | select(.token and .status != 200)] == []'
long_clone() {
  : >"$REQUESTS"
  # shellcheck disable=SC2016
  sandboxed bash -c '
    before=$("$CREDBROKER" token get idp) && git clone -q "$base/slow.git" "$1" && git -C "$1" fsck --full &&
      after=$("$CREDBROKER" token get idp) && [[ $before != "$after" ]]' - "$fixture/work/slow" &&
    cmp "$fixture/work/slow/file" "$fixture/seed-slow/file" &&
    requests '[.[] | select(.took > 6 and .status == 200 and .method == "POST")] | length == 1'
}
check "sandbox: a clone that takes longer than its token" long_clone
# Nothing but the socket, the capability and git's configuration in variables, as in a container.
by_options() {
  # shellcheck disable=SC2016
  sandboxed bash -c '
    exec env -i PATH="$PATH" CREDBROKER_SOCKET="$CREDBROKER_SOCKET" CREDBROKER_CAPABILITY="$CREDBROKER_CAPABILITY" \
      GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0 GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=credential.helper \
      GIT_CONFIG_VALUE_0="!\"$CREDBROKER\" git-credential --host 127.0.0.1:$1 --entry idp" \
      git ls-remote "$base/one.git"' - "$port"
}
check "sandbox: without a configuration, by options" says 'refs/heads/main' by_options
not_allowed() {
  # shellcheck disable=SC2016
  on_host setsid --wait bash -c 'echo $$ >>"$0"; exec "$@"' "$fixture/sessions" \
    "$CREDBROKER_BIN" run --allow steady -- git ls-remote "$base/one.git"
}
check "sandbox: what is not allowed says how to allow it" says '--allow idp' not_allowed

# --- a token that is refused ----------------------------------------------------------------------------------------------

# refused HOW...: the stored token becomes void; the first git fails and says so, the second succeeds. HOW runs them.
refused() {
  local before after first refreshed
  refreshed=$(counts .refreshed)
  before=$(on_host "$CREDBROKER_BIN" token get steady) || return
  # From now on the provider does not know it.
  printf %s "$before" | curl -sf --data-binary @- -o /dev/null "$(of counts)" || return
  first=$("$@" git ls-remote "$steady/one.git" 2>&1) && return 1
  echo "$first"
  grep -qF 'refused the token of steady/default; it was refreshed, so try again' <<<"$first" || return
  "$@" git ls-remote "$steady/one.git" || return
  after=$(on_host "$CREDBROKER_BIN" token get steady) || return
  [[ $before != "$after" && $(counts .refreshed) = $((refreshed + 1)) ]]
}
# A token of the other account is renewed by whatever runs meanwhile, but nothing runs here.
check "host: a refused token is refreshed, and the next git succeeds" refused on_host
check "sandbox: a refused token is refreshed, and the next git succeeds" refused sandboxed
others_password() {
  local refreshed
  refreshed=$(counts .refreshed)
  printf 'url=%s\nusername=oauth2\npassword=hunter2\n' "$steady" | on_host git credential reject || return
  [[ $(counts .refreshed) = "$refreshed" ]] && on_host git ls-remote "$steady/one.git"
}
check "host: a refused password that is not the token changes nothing" others_password

# --- what is not ours -----------------------------------------------------------------------------------------------------

# git_asks URL [OPTION...]: what git finds with another helper behind credbroker's, whose options these are.
git_asks() {
  local url=$1
  shift
  # shellcheck disable=SC2016
  on_host git -c credential.helper= -c credential.helper="$helper $*" \
    -c credential.helper='!f() { test "$1" = get && echo username=other && echo password=other; }; f' \
    credential fill <<<"url=$url"
}
check "an unknown host is left to other helpers" says '^password=other$' git_asks https://elsewhere.example/x.git
check "an unknown port is left to other helpers" says '^password=other$' git_asks "http://127.0.0.1:1/x.git"
check "unencrypted to another machine is left to other helpers" says '^password=other$' git_asks http://git.example/x.git
check "ftp is left to other helpers" says '^password=other$' git_asks ftp://git.example/x.git
check "another account is left to other helpers" \
  says '^password=other$' git_asks "http://bob@127.0.0.1:$port" --host "127.0.0.1:$port" --entry idp --username alice
ours() { [[ $(git_asks "$@" | grep -c '^password=other$') = 0 ]]; }
check "a host of ours is not" ours "$base/x.git"
check "encrypted it may go to another machine" ours https://git.example/x.git
check "an account of ours is not" ours "http://alice@127.0.0.1:$port" --host "127.0.0.1:$port" --entry idp --username alice

# --- without a login ------------------------------------------------------------------------------------------------------

nobody=("-c" "credential.helper=" "-c" "credential.helper=$helper --host 127.0.0.1:$port --entry nobody")
no_login() {
  local status=0
  on_host timeout 20 "$@" >"$fixture/said" 2>&1 || status=$?
  cat "$fixture/said"
  grep -q 'credbroker login nobody' "$fixture/said" && ((status != 124 && status != 0))
}
check "no login: git ends and says how to log in" no_login \
  env GIT_TERMINAL_PROMPT=0 git "${nobody[@]}" ls-remote "$base/one.git"
printf '#!/bin/sh\ntouch "%s"\necho typed-by-somebody\n' "$fixture/asked" >"$fixture/askpass"
chmod +x "$fixture/askpass"
asks_nobody() {
  no_login env -u GIT_TERMINAL_PROMPT GIT_ASKPASS="$fixture/askpass" git "${nobody[@]}" ls-remote "$base/one.git" &&
    [[ ! -e $fixture/asked ]]
}
check "no login: nobody is asked for a password" asks_nobody
# The same without a helper, to see that the question would be seen.
would_ask() {
  on_host env -u GIT_TERMINAL_PROMPT GIT_ASKPASS="$fixture/askpass" git -c credential.helper= ls-remote "$base/one.git"
  [[ -e $fixture/asked ]]
}
check "no login: without a helper git would have asked" would_ask
at_a_terminal() {
  local command
  printf -v command '%q ' git "${nobody[@]}" ls-remote "$base/one.git"
  no_login env -u GIT_TERMINAL_PROMPT script -qec "$command" /dev/null
}
check "no login: at a terminal nothing waits" at_a_terminal
check "no broker: git ends and says so" says 'Cannot connect to the credential broker' \
  on_host timeout 20 env CREDBROKER_SOCKET=/nonexistent/sock git ls-remote "$base/one.git"

# --- secrets --------------------------------------------------------------------------------------------------------------

traced() {
  sandboxed env GIT_TRACE=1 GIT_TRACE_CURL=1 GIT_TRACE_PACKET=1 GIT_TRACE_SETUP=1 GIT_TRACE2=1 GIT_CURL_VERBOSE=1 RUST_LOG=trace \
    git ls-remote "$base/one.git" >"$fixture/trace" 2>&1
  sandboxed env GIT_TRACE=1 GIT_TRACE2=1 RUST_LOG=trace git ls-remote "$steady/one.git" >>"$fixture/trace" 2>&1
}
check "git with every trace" traced
no_token_in_trace() {
  sort -u "$TOKENS" >"$fixture/needles"
  while read -r token; do
    printf 'oauth2:%s' "$token" | base64 -w0
    echo
  done < <(sort -u "$TOKENS") >>"$fixture/needles"
  [[ $(wc -l <"$fixture/needles") -ge 20 ]] && grep -q 'git-credential' "$fixture/trace" &&
    grep -q 'Authorization: Basic' "$fixture/trace" && ! grep -nF -f "$fixture/needles" "$fixture/trace"
}
check "no token is in a trace" no_token_in_trace
check "no token is among arguments or in an environment while git uses it" \
  requests '([.[] | select(.token)] | length > 0 and all(.shown_by == [])) and any(.[]; .git_was_there)'

check "no refresh token was used twice" test "$(counts .revoked)" = 0
check "the provider refused nothing" test "$(counts .refused)" = 0

# What git started may outlive it by a moment; what is still there after that, run.sh finds.
for _ in {1..50}; do
  while read -r session; do
    pgrep -s "$session" && break
  done <"$fixture/sessions" >/dev/null || break
  sleep 0.1
done

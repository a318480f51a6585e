#!/usr/bin/env bash
# credbroker run --sandbox with real bubblewrap and podman: that CMD gets what it needs, ends as it would elsewhere, and that
# nothing stays behind. What a hostile CMD tries is the ring `sandboxes`.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

[[ $(id -u) = 0 ]] || die "the ring sandbox-run needs root: it starts programs as another user, and podman as root"
need bwrap bubblewrap
need podman podman runc crun
need runc runc
need setpriv util-linux
need unshare util-linux

# What a machine with cgroups in hybrid mode, or one that may not raise limits, needs of podman.
cat >"$fixture/containers.conf" <<'TOML'
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
netns = "none"
[engine]
runtime = "runc"
TOML
export CONTAINERS_CONF=$fixture/containers.conf

# An image that needs no registry: links into a /usr that is mounted into it, and empty directories. Its user and its entry point
# must play no part.
image=localhost/credbroker-run:$$
trap 'podman rmi --force --ignore "$image" >/dev/null 2>&1' EXIT
mkdir -p "$fixture"/image/{usr,proc,sys,dev,etc,tmp,run,opt,work}
chmod 1777 "$fixture/image/tmp"
for link in bin sbin lib lib64; do ln -s "usr/$link" "$fixture/image/$link"; done
tar -C "$fixture/image" -c . |
  podman import --quiet --change 'USER 4711' --change 'ENTRYPOINT ["/usr/bin/false"]' - "$image" >/dev/null 2>>"$fixture/stderr"
mkdir -p "$fixture/bin" "$fixture/project"
cp "$CREDBROKER_BIN" "$fixture/bin/credbroker"
chmod 755 "$fixture/bin" "$fixture/bin/credbroker"

in_project() { (cd "$fixture/project" && on_host "$@"); }
# bwrap_run FLAG... -- CMD...; podman_run FLAG... -- CMD...
bwrap_run() { in_project "$CREDBROKER_BIN" run --sandbox bwrap --allow github "$@"; }
podman_run() {
  in_project "$CREDBROKER_BIN" run --sandbox podman --image "$image" --allow github \
    --mount /usr:/usr:ro --mount "$fixture/bin:/opt/bin:ro" "$@"
}
ends_with() { # ends_with CODE COMMAND...
  local status=0
  "${@:2}" || status=$?
  [[ $status = "$1" ]] || { echo "ended with $status, not $1"; return 1; }
}
token() { [[ $("$@") = gho_demo ]]; }

get='/opt/bin/credbroker token get github'
check "podman: root inside is served, whatever user and entry point the image has" token podman_run -- sh -c "$get"
check "podman: --user is served" token podman_run --user 1000:1000 -- sh -c "$get"
check "podman: root of a mapping is served" token podman_run --uidmap 0:200000:65536 -- sh -c "$get"
check "podman: a user of a mapping is served" token podman_run --uidmap 0:200000:65536 --user 1000 -- sh -c "$get"
# The directory keeps him out before the broker does; with a further uid it is open, and the broker decides.
check "podman: somebody else of the container does not reach the socket" \
  says 'Cannot connect' podman_run --runtime-arg=--cap-add=SETUID -- setpriv --reuid 4711 sh -c "$get"
stranger() {
  says 'uid 4711 may not use this socket.*--user' podman_run --user 1000 --runtime-arg=--user=0 --runtime-arg=--cap-add=SETUID \
    -- setpriv --reuid 4711 sh -c "$get"
}
check "podman: where it is reached, uids outside the mapping are refused with what to do" stranger
for code in 0 3 125; do
  check "podman: a command that ends with $code" ends_with $code podman_run -- sh -c "exit $code"
done
check "podman: a command that is not there is 127" ends_with 127 podman_run -- no-such-program
check "podman: a command that cannot be executed is 126" ends_with 126 podman_run -- /usr
check "podman: an option that it does not know is 125, in its own words" \
  says 'unknown flag: --no-such-option' ends_with 125 podman_run --runtime-arg=--no-such-option -- true
project() {
  [[ $(podman_run --mount . -- sh -c 'echo made >by-podman; pwd') = "$fixture/project" && -f $fixture/project/by-podman ]] &&
    [[ $(podman_run --mount .:/work:ro -- sh -c 'pwd; touch x 2>/dev/null || echo read-only') = $'/work\nread-only' ]]
}
check "podman: the working directory is where --mount puts it, and read-only if it says so" project
confined() {
  local found
  found=$(podman_run -- sh -c 'grep -E "^(CapEff|NoNewPrivs)" /proc/self/status; touch /run/credbroker/x || echo read-only
    ls -A /run/credbroker; ls /proc/self/fd | wc -l' 2>/dev/null 9</dev/null)
  [[ $found = $'CapEff:\t0000000000000000\nNoNewPrivs:\t1\nread-only\nsock\n4' ]] || { echo "$found"; return 1; }
}
check "podman: no capability of the kernel, no new privileges, one socket, no descriptor" confined
tini() { # Not installed: other rings have no process before theirs. What it does to codes and signals is the same.
  local init with
  mkdir -p "$fixture/tini"
  (cd "$fixture/tini" && apt-get download tini >/dev/null 2>&1 && dpkg -x tini_*.deb .) || return
  init=$fixture/tini/usr/bin/tini-static
  with=(--runtime-arg=--init --runtime-arg=--init-path="$init")
  ends_with 0 podman_run "${with[@]}" -- sh -c "$get >/dev/null" && ends_with 127 podman_run "${with[@]}" -- no-such-program &&
    ends_with 126 podman_run "${with[@]}" -- /usr && ends_with 143 podman_run "${with[@]}" -- sh -c 'kill -TERM $$'
}
# shellcheck disable=SC2016
check "podman: with tini before it a command ends as without it" tini
waits() { # waits FILE: until it is there and not empty.
  local turn
  for ((turn = 0; turn < 400; turn++)); do
    [[ ! -s $1 ]] || return 0
    sleep 0.05
  done
  echo "nothing came in $1"
  return 1
}
containers() { podman ps --all --format '{{.Names}} {{.Image}}' | grep -F "$image" || true; }
# shellcheck disable=SC2016
told='trap "echo told; exit 5" TERM; echo ready; while :; do sleep 0.05; done'
ended_by() { # ended_by SIGNAL CODE KIND: what a signal to the broker does; no capability in any argument meanwhile.
  local broker status=0 capability
  : >"$fixture/said"
  "$3_run" -- sh -c "$told" >"$fixture/said" &
  waits "$fixture/said" || return
  broker=$(cat "$fixture"/runtime/credbroker/*/pid)
  for directory in /proc/[0-9]*; do
    capability=$(tr '\0' '\n' <"$directory/environ" 2>/dev/null | sed -n 's/^CREDBROKER_CAPABILITY=//p') || true
    [[ -z $capability ]] || ! grep -qaF "$capability" /proc/[0-9]*/cmdline 2>/dev/null ||
      { echo "the capability is in an argument"; return 1; }
  done
  kill "-$1" "$broker"
  wait "$!" || status=$?
  [[ $status = "$2" ]] || { echo "ended with $status, not $2"; return 1; }
  [[ $1 = KILL && $3 = bwrap ]] || grep -q told "$fixture/said" || { sleep 1; grep -q told "$fixture/said"; } ||
    { echo "the command was not told"; return 1; }
}
check "podman: SIGTERM reaches the command, and its code comes back" ended_by TERM 5 podman
check "podman: kill -9 of the broker ends the command" ended_by KILL 137 podman
no_containers() {
  local turn
  for ((turn = 0; turn < 200; turn++)); do
    [[ -n $(containers) ]] || return 0
    sleep 0.05
  done
  containers
  return 1
}
check "podman: no container stays behind" no_containers
dry() { # The line that is shown is the line that is started: with the broker's id in place of ID.
  local shown started
  shown=$(podman_run --dry-run -- sh -c 'echo ready; sleep 2' | sed 1d | sh -c 'eval "set -- $(cat)"; printf "%s\n" "$@"')
  podman_run -- sh -c 'echo ready; sleep 2' >"$fixture/dry" &
  waits "$fixture/dry" || return
  started=$(for line in /proc/[0-9]*/cmdline; do
    if [[ $({ tr '\0' ' ' <"$line"; } 2>/dev/null) = */podman\ run\ * ]] && grep -qaF "$image" "$line"; then
      tr '\0' '\n' <"$line"
      break
    fi
  done)
  wait
  diff <(printf '%s\n' "$shown") <(sed -E 's/credbroker-[A-Za-z0-9_-]{22}$/credbroker-ID/; s,/[A-Za-z0-9_-]{22}/sandbox,/ID/sandbox,' <<<"$started")
}
check "podman: --dry-run shows what is started" dry

# Served: what descends from the sandbox's first process. `$fixture/attested` gets what the command has.
# shellcheck disable=SC2016
begin_attested() { # begin_attested KIND PROGRAM: the command has its token, and stays until the file `end` is there.
  rm -f "$fixture/project/end"
  : >"$fixture/attested"
  "$1_run" --attest pidns "${@:3}" -- sh -c '"$0" token get github && echo "$CREDBROKER_CAPABILITY" && until [ -e end ]; do sleep 0.05; done' \
    "$2" >"$fixture/attested" &
  local turn
  for ((turn = 0; turn < 400; turn++)); do
    [[ $(wc -l <"$fixture/attested") != 2 ]] || break
    sleep 0.05
  done
  [[ $(head -1 "$fixture/attested") = gho_demo ]] || { echo "the command got: $(cat "$fixture/attested")"; return 1; }
}
end_attested() {
  touch "$fixture/project/end"
  wait "$!"
}
refuses() { # refuses COMMAND...: it ends with 77, and says who is served.
  says '--attest pidns' ends_with 77 "$@" && ends_with 77 "$@" 2>/dev/null
}
outside() { # With the socket and the capability, but on the host.
  local socket
  socket=$(echo "$fixture"/runtime/credbroker/*/sandbox/sock)
  refuses on_host env CREDBROKER_SOCKET="$socket" \
    CREDBROKER_CAPABILITY="$(sed -n 2p "$fixture/attested")" "$CREDBROKER_BIN" token get github
}
attested() { # attested KIND PROGRAM FLAG...
  local status=0
  begin_attested "$@" || status=1
  ((status)) || outside || status=1
  [[ $status$1 != 0podman ]] || entered || status=1
  end_attested || status=1
  return "$status"
}
entered() { # podman exec starts a process that descends from somebody else; a child that it leaves behind is the first process's.
  local name left=$fixture/project/left turn
  name=$(containers)
  name=${name%% *}
  rm -f "$left"
  refuses podman exec "$name" sh -c "$get" || return
  podman exec "$name" setsid -f sh -c "sleep 0.5; $get >left.new 2>&1; mv left.new left" || return
  for ((turn = 0; turn < 400; turn++)); do
    [[ ! -e $left ]] || break
    sleep 0.05
  done
  [[ $(cat "$left") = gho_demo ]] || { echo "a child left behind got: $(cat "$left")"; return 1; }
}
check "podman: --attest pidns serves the container, not the host, nor what podman exec starts, but what that leaves behind" \
  attested podman /opt/bin/credbroker --mount .

check "bwrap: the command is served" token bwrap_run -- credbroker token get github
check "bwrap: SIGTERM reaches the command, and its code comes back" ended_by TERM 5 bwrap
check "bwrap: kill -9 of the broker ends the command" ended_by KILL 137 bwrap
check "bwrap: --attest pidns serves the sandbox and not the host" attested bwrap credbroker
private() {
  [[ -z $(bwrap_run -- sh -c 'find /etc ! -type l ! -type d ! -perm -o=r -readable -size +0 2>/dev/null') ]]
}
check "bwrap: what not everybody may read in /etc is hidden, also for root" private
keys() { # The session's keyring of whoever starts it has a key; inside it is another keyring.
  need keyctl keyutils
  # shellcheck disable=SC2016
  (cd "$fixture/project" && on_host keyctl session credbroker-ring bash -c '
    keyctl add user credbroker-ring of-the-session @s >/dev/null
    keyctl search @s user credbroker-ring >/dev/null || { echo "there is no key on the host"; exit 1; }
    "$0" run --sandbox bwrap -- keyctl search @s user credbroker-ring && { echo "the key is found inside"; exit 1; }
    exit 0' "$CREDBROKER_BIN")
}
check "bwrap: the session's keys stay outside" keys
abstract() { # A socket without a path, as displays have one, on the network that is shared.
  cat >"$fixture/abstract.py" <<'PY'
import ctypes, socket, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
abi = libc.syscall(444, None, 0, 1)
name = "\0credbroker-ring-%d" % __import__("os").getpid()
server = socket.socket(socket.AF_UNIX)
server.bind(name)
server.listen()
inside = "import socket,sys\ntry: socket.socket(socket.AF_UNIX).connect('\\0' + sys.argv[1]); print('reached')\nexcept OSError as e: print('refused')"
client = ["/usr/bin/python3", "-c", inside, name[1:]]
outside = subprocess.check_output(client, text=True)
sandbox = subprocess.check_output([*sys.argv[1:], *client], text=True)
print("landlock", abi, "outside", outside.strip(), "inside", sandbox.strip())
sys.exit(outside != "reached\n" or sandbox != ("refused\n" if abi >= 6 else "reached\n"))
PY
  need python3 python3
  (cd "$fixture/project" && on_host /usr/bin/python3 "$fixture/abstract.py" "$CREDBROKER_BIN" run --sandbox bwrap --)
}
check "bwrap: sockets without a path are out of reach where the kernel can do that" abstract
resolver() { # As systemd-resolved has it, in a mount namespace of its own.
  mkdir -p "$fixture/etc"
  # shellcheck disable=SC2016
  in_project unshare --mount bash -euc '
    cp -a /etc/. "$1/etc"
    ln -sfn ../run/ring-resolver/stub.conf "$1/etc/resolv.conf"
    mount -t tmpfs none /run && mkdir /run/ring-resolver && echo "nameserver 192.0.2.1" >/run/ring-resolver/stub.conf
    echo secret >/run/ring-resolver/other
    mount --bind "$1/etc" /etc
    [[ $("$2" run --sandbox bwrap -- sh -c "cat /etc/resolv.conf; ls /run/ring-resolver") = "nameserver 192.0.2.1
stub.conf" ]]' - "$fixture" "$CREDBROKER_BIN"
}
check "bwrap: the resolver's file is there if it is a link to /run, and nothing beside it" resolver
user() { # As a user who is nobody special.
  local home=$fixture/user
  chmod 711 "$fixture" "$(dirname "$fixture")"
  install -d -o 4711 -g 4711 -m 0700 "$home" "$home/run" "$home/project"
  # shellcheck disable=SC2016
  (cd "$home/project" && setpriv --reuid 4711 --regid 4711 --clear-groups env -i PATH=/usr/bin:/bin HOME="$home" \
    XDG_RUNTIME_DIR="$home/run" sh -euc '
      echo "{\"access_token\":\"of-the-user\",\"expires_in\":3600}" | "$0" token import p
      [ "$("$0" run --sandbox bwrap --allow p -- credbroker token get p)" = of-the-user ]
      "$0" run --sandbox bwrap -- sh -c "echo x >made; ! cat /etc/shadow 2>/dev/null"
      [ "$(cat made)" = x ]
      "$0" run --sandbox bwrap -- sh -c "kill -TERM \$\$" && exit 1
      [ $? = 143 ]' "$fixture/bin/credbroker")
}
check "bwrap: a user without privileges has a sandbox, too" user
refused() { # As on a host that keeps user namespaces from its users.
  local home=$fixture/user
  # shellcheck disable=SC2016
  in_project unshare --user --map-root-user --mount --pid --fork --mount-proc bash -euc '
    echo 0 >/proc/sys/user/max_user_namespaces
    status=0
    "$0" run --sandbox bwrap -- true || status=$?
    [ $status = 125 ]' "$CREDBROKER_BIN"
}
check "bwrap: without user namespaces it is 125, in its own words" says 'credbroker: error: bwrap did not start the command: ' refused

#!/usr/bin/env bash
# Real sandboxes: whom the broker takes each of them for, and what a hostile program gets at inside. Needs root.
# shellcheck source=tests/interop/lib.sh
source "$(dirname "$0")/../lib.sh"

[[ $(id -u) = 0 ]] || die "the ring sandboxes needs root: it starts programs as other users, and podman as root"
need bwrap bubblewrap
need podman podman runc crun netavark iptables fuse-overlayfs
need runc runc
need iptables iptables
PATH=$PATH:/usr/lib/podman need netavark netavark
need newuidmap uidmap
need setpriv util-linux
need busybox busybox-static
# The system's own Python, whatever comes first in PATH: a sandbox has /usr and not the caller's home.
/usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || need pip3 python3 python3-venv python3-pip
cached sandboxes "$interop/sandboxes/requirements.txt" make_venv /usr/bin/python3 "$interop/sandboxes/requirements.txt"
site=$(echo "$cache"/sandboxes/lib/python3.*/site-packages)

# An image that needs no registry: links into a /usr that is mounted into it, and empty directories.
image=localhost/credbroker-ring:$$
trap 'podman rmi --force --ignore "$image" >/dev/null 2>&1' EXIT
mkdir -p "$fixture"/image/{usr,proc,sys,dev,etc,tmp,run,opt,root}
chmod 1777 "$fixture/image/tmp"
for link in bin sbin lib lib64; do ln -s "usr/$link" "$fixture/image/$link"; done
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$fixture/image/etc/passwd"
tar -C "$fixture/image" -c . | podman import --quiet - "$image" >/dev/null 2>>"$fixture/stderr"

# What a machine with cgroups in hybrid mode, or one that may not raise limits, needs of podman. The capabilities are
# podman's own: a configuration of one's own takes away those that the distribution's leaves out.
cat >"$fixture/containers.conf" <<'TOML'
[containers]
default_capabilities = [
  "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
TOML
export CONTAINERS_CONF=$fixture/containers.conf PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$site

hosted() { # hosted SCRIPT ARGUMENT...: a script of this ring, in a session that run.sh looks into.
  # shellcheck disable=SC2016
  on_host setsid --wait bash -c 'echo $$ >>"$0"; exec "$@"' "$fixture/sessions" \
    /usr/bin/python3 "$interop/sandboxes/$1" "$CREDBROKER_BIN" "$site" "$image" "${@:2}" 2>>"$fixture/stderr"
}
export RING_SESSIONS=$fixture/sessions
hosted peercred.py
echo "# whom it takes them for: $SECONDS s"
hosted suite.py

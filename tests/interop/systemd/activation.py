"""A `serve` started by systemd-socket-activate, as a socket unit would do it, by the first client that connects."""

import contextlib
import ctypes
import os
import signal
import socket
import stat
import subprocess
import sys
import time

binary, fixture = sys.argv[1:]
srv = os.path.join(fixture, "srv")
os.mkdir(srv, 0o755)
KEPT = ["XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "PATH", "HOME"]
PATIENCE = 30


def check(name, holds, why=""):
    print(f"ok {name}" if holds else f"not ok {name}: {why}", flush=True)


class Ear:
    """Where a service manager listens."""

    def __init__(self, name):
        self.path = os.path.join(fixture, name)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(PATIENCE)

    def message(self):
        try:
            return self.socket.recv(4096).decode().splitlines()
        except TimeoutError:
            return ["nothing"]


def activate(paths, ear, before=(), flags=()):
    """systemd-socket-activate; it becomes the broker with the first connection."""
    command = ["systemd-socket-activate", "--fdname=broker"]
    for path in paths:
        command += ["-l", path]
    for name in KEPT:
        command += ["-E", f"{name}={os.environ[name]}"]
    command += ["-E", f"NOTIFY_SOCKET={ear.path}", *before, binary, "serve", *flags]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.monotonic() + PATIENCE
    while not all(os.path.exists(path) for path in paths):
        assert time.monotonic() < end, "nobody listens"
        time.sleep(0.01)
    return process


def get(path):
    environment = {"PATH": os.environ["PATH"], "CREDBROKER_SOCKET": path}
    command = [binary, "token", "get", "github"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)


def stop(process):
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE)
    return process.returncode, said.decode()


# The first call starts the broker and is answered; the socket's file is systemd's.
path, ear = os.path.join(srv, "sock"), Ear("notify")
trace = os.path.join(fixture, "trace")
process = activate([path], ear)
before = os.stat(path)
answer = get(path)
check("the first call starts the broker and is answered", answer.stdout == "gho_demo\n", answer)
message = ear.message()
check("readiness is told", message == ["READY=1", f"STATUS=Serving {path}"], message)
with open(f"/proc/{process.pid}/environ") as environment:
    check("it was handed over under its name", "LISTEN_FDNAMES=broker" in environment.read().split("\0"))
control = os.path.join(os.environ["XDG_RUNTIME_DIR"], "credbroker/daemon/control.sock")
check("the control socket is the daemon's", stat.S_ISSOCK(os.stat(control).st_mode))
host = {name: os.environ[name] for name in KEPT}
status = subprocess.run([binary, "status", "--json"], env=host, capture_output=True, text=True, timeout=PATIENCE)
check("status finds it by its socket", f'"socket":"{path}"' in status.stdout.replace(" ", ""), status)
answer = get(path)
check("the second call is answered", answer.stdout == "gho_demo\n", answer)
began = time.monotonic()
code, said = stop(process)
check("SIGTERM ends it in order", code == 0 and time.monotonic() - began < 5, (code, said))
message = ear.message()
check("the stop is told", message[:1] == ["STOPPING=1"], message)
after = os.stat(path)
check(
    "the socket's file is left as it was",
    (before.st_ino, before.st_mode, before.st_ctime_ns) == (after.st_ino, after.st_mode, after.st_ctime_ns),
    (before, after),
)
check("the broker's own directory is gone", not os.path.exists(os.path.dirname(control)))
os.unlink(path)

# Two sockets, or one beside --socket: a wrong unit.
for name, paths, flags, word in [
    ("two sockets", [os.path.join(srv, "a"), os.path.join(srv, "b")], (), "2 sockets (broker:broker)"),
    ("a socket and --socket", [os.path.join(srv, "c")], ("--socket", os.path.join(srv, "d")), "--socket"),
]:
    process = activate(paths, ear, flags=flags)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(paths[0])
        _, said = process.communicate(timeout=PATIENCE)
    said = said.decode()
    check(f"{name}: 64 and why", process.returncode == 64 and word in said, (process.returncode, said))
    for path in paths:
        os.unlink(path)

# Once more under strace, for what the units' filter has to let through: calls, a key, a failing call, health, status.
path, ear = os.path.join(srv, "traced"), Ear("notify-traced")
# PR_SET_CHILD_SUBREAPER: with -D strace is nobody's child, and somebody has to wait for it.
ctypes.CDLL(None).prctl(36, 1)
# Without capabilities, as the units have it: with some it would give them up, which the filter does not let.
bare = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
process = activate([path], ear, before=[*bare, "strace", "-f", "-qq", "-D", "-e", "signal=none", "-o", trace])
answer = get(path)
message = ear.message()
if message[:1] != ["READY=1"]:
    # Under strace the broker is the same process, because of -D.
    check("it starts under strace", False, (answer, message))
for arguments in [["token", "get", "absent"], ["key", "get", "openai"], ["token", "list"], ["doctor"]]:
    environment = {"PATH": os.environ["PATH"], "CREDBROKER_SOCKET": path}
    subprocess.run([binary, *arguments], env=environment, capture_output=True, timeout=PATIENCE)
subprocess.run([binary, "status"], env=host, capture_output=True, timeout=PATIENCE)
code, said = stop(process)
check("it ends in order under strace", code == 0, (code, said))
os.unlink(path)
with contextlib.suppress(ChildProcessError):
    while True:
        os.wait()

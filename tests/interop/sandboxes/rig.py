"""What both halves of the ring are made of: brokers on the host, and checks."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time

PATIENCE = 30
PYTHON = "/usr/bin/python3"  # The system's own: a sandbox has /usr and not the caller's home.
HERE = os.path.dirname(os.path.abspath(__file__))


def check(name, holds, why=""):
    # In one piece: several threads check.
    print((f"ok {name}" if holds else f"not ok {name}: {why}") + "\n", end="", flush=True)


def note(line):
    print(f"# {line}\n", end="", flush=True)


def until(holds, what):
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.02)


def alone():
    """Waits until nobody else is left in the sessions of this ring: podman tidies up behind its containers' backs."""

    def others():
        with open(os.environ["RING_SESSIONS"]) as file:
            sessions = {line.strip() for line in file}
        return set(subprocess.run(["pgrep", "-s", ",".join(sessions)], capture_output=True, text=True).stdout.split()) - {
            str(os.getpid())
        }

    until(lambda: not others(), "everybody goes")


def grid(head, rows):
    """A table as text."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, ["-" * width for width in widths], *rows]:
        note("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")


@contextlib.contextmanager
def workplace(site):
    """A directory that every user may enter, with the packages and programs of this ring. Gone afterwards."""
    work = tempfile.mkdtemp(prefix="cb-ring-")  # Short: a socket's path has an end.
    try:
        os.chmod(work, 0o755)
        shutil.copytree(site, os.path.join(work, "site"))
        ignored = shutil.ignore_patterns("*.sh", "*.txt", "__pycache__")
        shutil.copytree(HERE, os.path.join(work, "site"), dirs_exist_ok=True, ignore=ignored)
        subprocess.run(["chmod", "-R", "a+rX", work], check=True)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


class Broker:
    """`credbroker serve` with one sandbox's policy."""

    def __init__(self, binary, directory, flags=(), prefix=(), environment=None, allow='allow = ["github"]'):
        self.directory, self.capability = directory, secrets.token_hex(32)
        self.socket = os.path.join(directory, "sock")
        self.audit = directory + ".audit"
        self.log = directory + ".log"
        digest = hashlib.sha256(bytes.fromhex(self.capability)).hexdigest()
        policy = directory + ".toml"
        with open(policy, "w") as file:
            file.write(f'[sandboxes.ring]\ncapability_sha256 = "{digest}"\n{allow}\n')
        environment = dict(environment or os.environ, CREDBROKER_AUDIT_PATH=self.audit)
        command = [*prefix, binary, "serve", "--socket", self.socket, "--socket-mode", "0666", "--policy", policy, *flags]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=log)
        until(lambda: os.path.exists(self.socket) or self.process.poll() is not None, "the broker listens")
        with open(self.log) as log:
            assert self.process.poll() is None, log.read()

    def audited(self):
        """The records of the audit file so far, without the lines that the chain has besides."""
        return [line for line in self.lines() if "operation" in line]

    def recorded(self):
        """How many calls it tells of so far: of many refused ones at once some are only counted."""
        counted = [line["calls"] for line in self.lines() if line.get("event") == "refusals"]
        return len(self.audited()) + sum(sum(calls.values()) for calls in counted)

    def lines(self):
        lines = []
        for name in os.listdir(self.audit) if os.path.isdir(self.audit) else []:
            with open(os.path.join(self.audit, name)) as file:
                lines += [json.loads(line) for line in file if line.endswith("}\n")]
        return lines

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

"""The processes of the soak: the provider, the two brokers with their lives, and the clients."""

import datetime
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

from door import Door

FIXTURE = pathlib.Path(os.environ["SOAK_FIXTURE"])
BINARY = os.environ["SOAK_BINARY"]
CAPABILITY = secrets.token_hex(32)
LOGS = FIXTURE / "logs"
# What a broker reads all the time. It may be confined to the files that it was told of and their directories, so its clock
# is in the one of the client's secret.
HOST = FIXTURE / "host"
PATIENCE = 30
LIFETIME = 5  # Seconds, of the provider's access tokens.


def private(path, text):
    """A file of 0600, whole at any moment."""
    new = path.with_name(path.name + ".new")
    new.touch(mode=0o600)
    new.write_text(text)
    new.rename(path)


def environment(**more):
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    directories = {
        f"XDG_{name}": str(FIXTURE / place)
        for name, place in [
            ("RUNTIME_DIR", "runtime"),
            ("DATA_HOME", "data"),
            ("STATE_HOME", "state"),
            ("CONFIG_HOME", "config"),
        ]
    }
    return {**kept, **directories, "TMPDIR": str(FIXTURE / "tmp"), **more}


def credbroker(*arguments, **more):
    """The command on the host, with the configuration of broker a."""
    return subprocess.run(
        [BINARY, "--config", FIXTURE / "a.toml", *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        **more,
    )


class Provider:
    def __init__(self):
        self.process = subprocess.Popen(
            ["node", os.environ["SOAK_SERVER"]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(LOGS / "provider", "w"),
            text=True,
        )
        self.says = json.loads(self.process.stdout.readline())
        self.port = int(self.says["issuer"].rsplit(":", 1)[1])
        self.turn = threading.Lock()
        private(HOST / "secret", self.says["client_secret"])

    def tokens(self):
        """Of one more login."""
        with self.turn:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())

    def counts(self):
        with urllib.request.urlopen(self.says["counts"], timeout=PATIENCE) as answer:
            return json.load(answer)


class Life:
    """One process of a broker."""

    def __init__(self, slot, number):
        self.slot, self.number = slot, number
        self.process = self.door = self.killed = None
        self.processor = 0.0  # Seconds of processor time.
        self.samples = []  # (when, resident KiB, threads, descriptors)

    def __str__(self):
        return f"{self.slot}#{self.number}"


class Broker:
    """A place where a broker listens: one life at a time."""

    def __init__(self, slot, weather, record, provider, lost):
        self.slot, self.weather, self.record, self.provider, self.lost = slot, weather, record, provider, lost
        self.socket = FIXTURE / slot / "sock"
        self.clock = HOST / f"clock-{slot}"
        self.lives = []
        self.set_clock(0)

    @property
    def life(self):
        return self.lives[-1]

    def set_clock(self, seconds):
        """Steps the wall clock of the broker, and that alone: like `date -s` on a machine, boot time and the monotonic
        clock go on as they were."""
        private(self.clock, f"{seconds:+d}\n")

    def start(self):
        life = Life(self.slot, len(self.lives) + 1)
        life.door = Door(life, self.weather, self.record, self.provider, self.lost)
        config = FIXTURE / f"{self.slot}.toml"
        private(
            config,
            f'[providers.idp]\ntoken_endpoint = "http://127.0.0.1:{life.door.port}/token"\n'
            f'client_id = "{self.provider.says["client_id"]}"\nclient_secret_file = "{HOST}/secret"\n',
        )
        life.process = subprocess.Popen(
            [
                BINARY,
                "--log-format",
                "json",
                "--config",
                str(config),
                "serve",
                "--socket",
                str(self.socket),
                "--capability-file",
                str(FIXTURE / "capability"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=open(LOGS / f"broker-{life}", "w"),
            env=environment(
                LD_PRELOAD=os.environ["SOAK_FAKETIME"],
                FAKETIME_TIMESTAMP_FILE=str(self.clock),
                FAKETIME_NO_CACHE="1",
                FAKETIME_DONT_FAKE_MONOTONIC="1",
            ),
        )
        self.lives.append(life)
        end = time.monotonic() + PATIENCE
        while not self.listens():
            if life.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{life} does not start: {(LOGS / f'broker-{life}').read_text()[-2000:]}")
            time.sleep(0.02)
        return life

    def listens(self):
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError:
                return False
        return True

    def alive(self):
        return self.life.process.poll() is None

    def kill(self):
        life = self.life
        life.killed = time.monotonic()
        life.process.kill()
        life.process.wait()
        life.door.end()

    def terminate(self):
        """An orderly end; its status."""
        self.life.process.terminate()
        return self.life.process.wait(PATIENCE)

    def processor(self):
        """Seconds of processor time that its process has used."""
        try:
            stat = pathlib.Path(f"/proc/{self.life.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return self.life.processor
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def sample(self):
        """Resident KiB, threads and descriptors of its process now."""
        pid = self.life.process.pid
        try:
            status = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
            descriptors = len(os.listdir(f"/proc/{pid}/fd"))
            found = int(status["VmRSS"].split()[0]), int(status["Threads"]), descriptors
        except (OSError, KeyError):
            return None
        return found


def log_in(record, provider, family):
    """What a login at the provider leaves behind, imported."""
    asked, wall = record.now(), time.time()
    tokens = provider.tokens()
    record.login(family, asked, LIFETIME, tokens)
    # When it ends, not how long it lasts: an import may have to wait for its turn.
    answer = json.dumps({**tokens, "expires_at": datetime.datetime.fromtimestamp(wall + LIFETIME, datetime.UTC).isoformat()})
    for _ in range(10):
        done = credbroker("token", "import", "idp", "--bucket", family, input=answer, timeout=60)
        if done.returncode == 0:
            with record.lock:
                record.logged_in[family] = time.monotonic()
            return
        if done.returncode != 75:  # The entry is busy: whoever has it is stopped, perhaps.
            break
    record.violation(f"{family} cannot be imported: {done.returncode}: {done.stderr}")


class Clients:
    """The clients, and the process that they come from."""

    def __init__(self, record):
        reading, writing = os.pipe()
        self.record, self.ended, self.pids = record, False, {}
        self.lock = threading.Lock()
        self.killed = set()
        self.process = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).with_name("clients.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(LOGS / "clients", "w"),
            text=True,
            bufsize=1,
            pass_fds=[writing],
            env={**os.environ, "SOAK_REPORTS": str(writing), "SOAK_CAPABILITY": CAPABILITY},
        )
        os.close(writing)
        threading.Thread(target=self.read_reports, args=(reading,), daemon=True).start()
        threading.Thread(target=self.read_pids, daemon=True).start()

    def read_reports(self, reading):
        with os.fdopen(reading) as lines:
            for line in lines:
                self.record.report(line)

    def read_pids(self):
        for line in self.process.stdout:
            what, *words = line.split()
            if what == "started":
                self.pids[words[0]] = int(words[1])
            else:
                with self.lock:
                    expected = int(words[0]) in self.killed
                if not expected:
                    self.record.violation(f"a client ended by itself, with {words[1]}: see {LOGS / 'clients'}")

    def start(self, name, *words):
        self.process.stdin.write(f"start {name} {' '.join(map(str, words))}\n")
        self.process.stdin.flush()

    def pid(self, name):
        return self.pids.get(name)

    def kill(self, name, how=signal.SIGKILL):
        pid = self.pids.pop(name, None)
        if pid is not None:
            with self.lock:
                self.killed.add(pid)
            os.kill(pid, how)
        return pid

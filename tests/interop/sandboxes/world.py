"""One sandbox with a host around it: a home, a store, secrets in every place that a program might look at, and neighbours."""

import base64
import ctypes
import glob
import json
import os
import pty
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import rig
from keeper import ADD_KEY, KEYCTL

libc = ctypes.CDLL(None, use_errno=True)


def canary(kind):
    return f"canary-{kind}-{secrets.token_hex(12)}"


class World:
    """`run --sandbox` as one user. Everything in it is removed by `end`."""

    ABSTRACT = "an abstract socket"

    def __init__(self, work, binary, name, sandbox, uid=0, flags=()):
        self.name, self.sandbox, self.uid, self.flags, self.binary = name, sandbox, uid, list(flags), binary
        self.site, self.place = os.path.join(work, "site"), os.path.join(work, name.replace(", ", "-").replace(" ", "-"))
        self.secrets, self.elsewhere, self.listeners, self.processes = {}, [], [], []
        self.mark = "credbroker-ring-" + secrets.token_hex(6)
        self.prefix = ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"] if uid else []
        for directory in ("", "home", "home/project", "home/other-project", "home/.ssh", "home/.config", "out", "neighbour", "audit",
                          "runtime", "agents", "neighbour-project"):  # fmt: skip
            self.directory(directory)
        # A container's user may be anybody.
        os.chmod(self.path("out"), 0o777)
        os.chmod(self.path("neighbour"), 0o777)
        self.home = self.path("home")
        self.environment = self.host_environment()
        self.fill_store()
        self.plant()

    def path(self, *parts):
        return os.path.join(self.place, *parts)

    def directory(self, name):
        os.mkdir(self.path(name), 0o700)
        os.chown(self.path(name), self.uid, self.uid)

    def hide(self, kind, directory, name):
        """A file with a secret of the user's."""
        secret = self.secrets[kind] = canary(kind.split()[-1].strip("/"))
        path = os.path.join(directory, name)
        with open(path, "w") as file:
            file.write(secret + "\n")
        os.chmod(path, 0o600)
        os.chown(path, self.uid, self.uid)
        return path

    def host_environment(self):
        """What the caller of `run` has in its environment: secrets, agents, and what `run` itself needs."""
        environment = {name: os.environ[name] for name in ("PATH", "CONTAINERS_CONF") if name in os.environ}
        environment.update(
            HOME=self.home, USER="somebody", LANG="C.UTF-8", TERM="xterm", CREDBROKER_AUDIT_PATH=self.path("audit")
        )
        environment.update(XDG_RUNTIME_DIR=self.path("runtime"), XDG_CONFIG_HOME=self.path("home/.config"))
        environment.update(XDG_DATA_HOME=self.path("home/.local/share"), XDG_STATE_HOME=self.path("home/.local/state"))
        for name in (
            "AWS_SECRET_ACCESS_KEY",
            "GITHUB_TOKEN",
            "ANTHROPIC_API_KEY",
            "NPM_TOKEN",
            "ACME_SECRET",
            "PASSWORD",
            "LD_AUDIT_X",
        ):
            self.secrets[f"the variable {name}"] = environment[name] = canary("environment")
        return environment

    def credbroker(self, *arguments, given=b""):
        command = [*self.prefix, self.binary, *arguments]
        environment = dict(self.environment)
        ended = subprocess.run(command, env=environment, input=given, capture_output=True, timeout=rig.PATIENCE, cwd="/")
        assert ended.returncode == 0, (arguments, ended.stderr)

    def fill_store(self):
        os.makedirs(self.path("home/.config/credbroker"))
        with open(self.path("home/.config/credbroker/config.toml"), "w") as file:
            url = 'token_endpoint = "https://login.invalid/token"\n'
            file.write(f'[providers.acme]\n{url}client_id = "ring"\nclient_secret_env = "ACME_SECRET"\n')
        subprocess.run(["chown", "-R", f"{self.uid}:{self.uid}", self.home], check=True)
        self.own = {"the own token": canary("own-token"), "the own key": canary("own-key")}
        entries = {"github": self.own["the own token"], "github/work": canary("work"), "vault": canary("vault")}
        for entry, token in entries.items():
            if token not in self.own.values():
                self.secrets[f"the access token of {entry}"] = token
            refresh = self.secrets[f"the refresh token of {entry}"] = canary("refresh")
            provider, _, bucket = entry.partition("/")
            answer = {"access_token": token, "refresh_token": refresh, "expires_in": 36000}
            self.credbroker(
                "token", "import", provider, *(["--bucket", bucket] if bucket else []), given=json.dumps(answer).encode()
            )
        self.secrets["the API key stripe"] = canary("stripe")
        self.credbroker("key", "set", "openai", given=self.own["the own key"].encode())
        self.credbroker("key", "set", "stripe", given=self.secrets["the API key stripe"].encode())
        self.store = self.path("home/.local/share/credbroker")
        with open(f"{self.store}/identity.txt") as file:
            self.secrets["the store's identity"] = next(line.strip() for line in file if line.startswith("AGE-SECRET-KEY"))

    def plant(self):
        """Secrets all over the host, and somebody who listens."""
        self.paths = {
            "the store's identity": f"{self.store}/identity.txt",
            "the store's token": glob.glob(f"{self.store}/tokens/*/*.age")[0],
            "the configuration": self.path("home/.config/credbroker/config.toml"),
            "a file in the home": self.hide("a file in the home", self.path("home/.ssh"), "id_ed25519"),
            "another project in the home": self.hide("another project", self.path("home/other-project"), ".env"),
            "the audit file": self.path("audit"),
            "the runtime directory's lock": self.path("runtime/credbroker/lock"),
        }
        for root in ("/run", "/var/tmp", "/tmp", "/dev/shm"):
            directory = tempfile.mkdtemp(prefix="credbroker-ring-", dir=root)
            os.chown(directory, self.uid, self.uid)
            self.elsewhere.append(directory)
            name = "/var" if root == "/var/tmp" else root
            self.paths[f"a file in {name}"] = self.hide(f"a file in {name}", directory, "secret")
        agents = {
            "an ssh-agent of the host": "SSH_AUTH_SOCK",
            "a gpg-agent of the host": "GPG_AGENT_INFO",
            "a session bus": "BUS",
        }
        self.sockets = {}
        for name, variable in agents.items():
            self.sockets[name] = self.listen(name, self.path("agents", variable))
            self.environment[variable] = self.sockets[name]
        self.environment["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=" + self.sockets["a session bus"]
        self.sockets["a socket in /run"] = self.listen("a socket in /run", os.path.join(self.elsewhere[0], "agent"))
        self.abstract = "credbroker-ring-" + secrets.token_hex(6)
        self.listen(self.ABSTRACT, "\0" + self.abstract)
        self.loopback = socket.create_server(("127.0.0.1", 0))
        self.answer(self.loopback, b"a page of the host\n")
        # As the user: keyrings and segments belong to who makes them.
        self.key, self.segment = "credbroker-ring-" + secrets.token_hex(6), secrets.randbelow(1 << 30)
        self.secrets["a key in the kernel's keyring"], self.secrets["a segment of shared memory"] = (
            canary("key"),
            canary("segment"),
        )
        keeper = [*self.prefix, rig.PYTHON, "-B", f"{self.site}/keeper.py"]
        self.keeper = subprocess.Popen(
            [*keeper, self.key, str(self.segment)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        values = [self.secrets["a key in the kernel's keyring"], self.secrets["a segment of shared memory"]]
        self.keeper.stdin.write("\n".join(values) + "\n")
        self.keeper.stdin.flush()
        ready, *keyrings = self.keeper.stdout.readline().split()
        self.keyrings = [int(keyring) for keyring in keyrings]
        assert ready == "ready" and len(keyrings) == 2
        # Something to kill, to trace and to read: as good as the broker, and nobody minds.
        self.decoy = subprocess.Popen([*self.prefix, "sleep", "600"])

    def listen(self, name, address):
        """A socket that tells a secret to whoever connects."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        if not address.startswith("\0"):
            os.chmod(address, 0o666)
        listener.listen(16)
        secret = self.secrets[name] = canary("socket")
        self.answer(listener, secret.encode())
        return address

    def answer(self, listener, text):
        self.listeners.append(listener)

        def serve():
            while True:
                try:
                    client, _ = listener.accept()
                    with client:
                        client.settimeout(5)
                        client.sendall(text)
                        client.recv(1)  # What is not read would end the connection before the answer is.
                except OSError:
                    if listener.fileno() < 0:
                        return

        threading.Thread(target=serve, daemon=True).start()

    def command(self, out, arguments, allow=("--allow", "github", "--allow-key", "openai")):
        image = ["--image", os.environ["RING_IMAGE"]] if self.sandbox == "podman" else []
        # /usr is where the image has its programs, too.
        mounts = ["--mount", "/usr:/usr:ro"] if self.sandbox == "podman" else []
        mounts += ["--mount", f"{self.site}:/attack/site:ro", "--mount", f"{self.path(out)}:/attack/out"]
        return [
            *self.prefix,
            self.binary,
            "run",
            "--sandbox",
            self.sandbox,
            *image,
            *mounts,
            *self.flags,
            *allow,
            "--",
            *arguments,
        ]

    def brokers(self):
        """Directories of the brokers that live."""
        return set(glob.glob(self.path("runtime/credbroker/*/sandbox/sock")))

    def start_neighbours(self):
        """A sandbox that has ended, and one that lives."""
        self.ended, self.ended_socket = self.sandbox_beside("neighbour", ("--allow", "github"), ends=True)
        self.neighbour, self.neighbour_socket = self.sandbox_beside("neighbour", ("--allow", "vault"))

    def sandbox_beside(self, out, allow, ends=False):
        before = self.brokers()
        for name in ("given", "stop", "served"):
            if os.path.exists(self.path(out, name)):
                os.unlink(self.path(out, name))
        command = self.command(out, [rig.PYTHON, "-B", "/attack/site/attack/neighbour.py", allow[1]], allow)
        with open(self.path(out) + ".log", "ab") as log:
            process = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.path("neighbour-project"),
            )
        self.processes.append(process)

        def given():
            if process.poll() is not None:
                with open(self.path(out) + ".log") as log:
                    raise AssertionError(f"the sandbox beside ended: {log.read()[-1500:]}")
            return os.path.exists(self.path(out, "given"))

        rig.until(given, "a sandbox beside")
        with open(self.path(out, "given")) as file:
            capability = json.load(file)["capability"]
        (path,) = self.brokers() - before
        if ends:
            self.stop_beside(process, out)
        return capability, path

    def stop_beside(self, process, out):
        open(self.path(out, "stop"), "w").close()
        assert process.wait(rig.PATIENCE) == 0, process.returncode

    def served(self):
        with open(self.path("neighbour/served")) as file:
            return [line.split() for line in file]

    def tell(self):
        sockets = dict(self.sockets)
        sockets["another sandbox's socket"] = self.neighbour_socket
        sockets["the socket of a sandbox that has ended"] = self.ended_socket
        sockets["the control socket"] = os.path.join(os.path.dirname(os.path.dirname(self.neighbour_socket)), "control.sock")
        setuid = self.path("out/setuid")
        shutil.copy(os.path.realpath(rig.PYTHON), setuid)
        os.chown(setuid, 0, 0)
        os.chmod(setuid, 0o4755)
        system = {f"/{name}": "ro" for name in ("usr", "bin", "sbin", "etc")} | {r"/lib\w*": "ro", "/etc/.+": "ro"}
        podman = {
            "/etc/hosts": "rw",
            "/etc/hostname": "rw",
            "/etc/resolv.conf": "rw",
            "/run/.containerenv": "rw",
            "/run/podman-init": "ro",
            "/run/secrets": "rw",
        }
        mounts = {"/attack/site": "ro", "/attack/out": "rw", self.path("home/project"): "rw"}
        mounts |= {
            "/run/credbroker": "ro",
            "/opt/credbroker/bin(/credbroker)?": "ro",
            os.path.realpath("/etc/resolv.conf"): "ro",
        }
        mounts |= {"/usr": "ro", **podman} if self.sandbox == "podman" else system
        told = {
            "paths": self.paths, "sockets": sockets, "abstract": self.abstract, "loopback": self.loopback.getsockname(),
            "home": self.home, "mounts": mounts, "neighbour": self.neighbour, "ended": self.ended, "decoy": self.decoy.pid,
            "broker's pid": self.processes[-1].pid,
            "broker": os.path.dirname(os.path.dirname(self.neighbour_socket)), "mark": self.mark, "setuid": "/attack/out/setuid",
            "key": self.key, "keyrings": self.keyrings, "segment": self.segment,
        }  # fmt: skip
        with open(self.path("out/told.json"), "w") as file:
            json.dump(told, file)
        os.chmod(self.path("out/told.json"), 0o644)

    def attack(self, pattern=""):
        """Runs the attack in a terminal of its own; what it printed, and the status of `run`."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.path("out/accomplice"))
            os.chmod(self.path("out/accomplice"), 0o777)
            listener.listen(1)
            listening = listener.fileno()
            stranger = ["setpriv", "--reuid", "4999", "--regid", "4999", "--clear-groups"]
            program = [rig.PYTHON, "-B", f"{self.site}/accomplice.py", self.site, str(listening)]
            self.processes.append(subprocess.Popen([*stranger, *program], pass_fds=[listening], cwd="/"))
        command = self.command("out", [rig.PYTHON, "-B", "/attack/site/attack", pattern])
        command = command[len(self.prefix) :]
        # The shell has the terminal before and after. The victim is in its process group, as `run` is.
        script = f'{rig.PYTHON} -B "$1" "$2" & victim=$!; log=$3; mark=$4; shift 4; "$@" 2>"$log"; echo "status $?"; '
        script += (
            'stty -echo; echo "typed:"; while read -r -t 0.3 line; do echo "$line"; done; echo "$mark"; kill -KILL "$victim"'
        )
        arguments = [
            "bash",
            "-c",
            script,
            "bash",
            f"{self.site}/victim.py",
            self.path("heard"),
            self.path("log"),
            self.mark,
            *command,
        ]
        session = self.secrets["a key in the session's keyring"] = canary("session")
        child, terminal = pty.fork()
        if child == 0:
            if self.uid:
                os.setgroups([])
                os.setgid(self.uid)
                os.setuid(self.uid)
            # A login's session keyring with the user's own in it, as PAM makes it: it goes on to every child.
            libc.syscall(KEYCTL, 1, None)
            libc.syscall(
                ADD_KEY, b"user", b"session-" + self.key.encode(), session.encode(), len(session), ctypes.c_long(-3)
            )
            libc.syscall(KEYCTL, 8, ctypes.c_long(-4), ctypes.c_long(-3))
            os.chdir(self.path("home/project"))
            os.execvpe(arguments[0], arguments, self.environment)
        if "RING_SESSIONS" in os.environ:
            with open(os.environ["RING_SESSIONS"], "a") as file:
                file.write(f"{child}\n")
        said = b""
        try:
            while data := os.read(terminal, 4096):
                said += data
        except OSError:
            pass  # The terminal is gone when its last process is.
        os.waitpid(child, 0)
        os.close(terminal)
        return said.decode(errors="replace").replace("\r\n", "\n")

    def loot(self):
        """Everything that the attack got at, in the plain and decoded as far as one layer goes."""
        for path in sorted(glob.glob(self.path("out/loot/*"))):
            with open(path, "rb") as file:
                yield file.read()

    def found(self, wanted):
        """Which of these secrets are in the loot, as they are or as hex or base64; where, in the attack's own words."""
        spelled = {}
        for kind, secret in wanted.items():
            raw = secret.encode()
            spelled[kind] = [raw, raw.hex().encode(), raw[::-1], raw.decode().encode("utf-16-le")]
            spelled[kind] += [base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4] for shift in range(3)]
        seen = {}
        for data in self.loot():
            for kind, forms in spelled.items():
                if kind not in seen and any(form in data for form in forms):
                    seen[kind] = data.split(b"\n", 1)[0].decode(errors="replace")
        return seen

    def end(self):
        for process in [*self.processes, self.decoy, self.keeper]:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait(10)
        for listener in self.listeners:
            listener.close()
        for directory in self.elsewhere:
            shutil.rmtree(directory, ignore_errors=True)


def wait_quiet(path, seconds=1.0):
    """Whether nobody writes the file any more."""
    before = os.stat(path).st_mtime_ns
    time.sleep(seconds)
    return os.stat(path).st_mtime_ns == before

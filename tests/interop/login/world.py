"""What the scripts of this ring share: the provider, the command line under test, and what is written down of both."""

import json
import os
import pathlib
import pty
import queue
import re
import shlex
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request

from person import Person

FIXTURE = pathlib.Path(os.environ["LOGIN_FIXTURE"])
BINARY = os.environ["LOGIN_BINARY"]
SERVER = os.environ["LOGIN_SERVER"]
RECORDS = FIXTURE / "records"
PATIENCE = 40
# The provider, and its client, for each flow.
PROVIDERS = {"device_code": "native", "browser_redirect": "native", "pkce_redirect": "paste"}
# What people were shown.
prompts = []


def wait_for(what, condition, seconds=PATIENCE):
    """What the condition gives as soon as it is true."""
    end = time.monotonic() + seconds
    while True:
        got = condition()
        if got:
            return got
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.1)


def listens(port):
    """The loopback addresses with something that listens on the port."""
    found = []
    for family, host in [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]:
        try:
            with socket.socket(family) as probe:
                probe.settimeout(5)
                probe.connect((host, port))
            found.append(host)
        except OSError:
            pass
    return found


def query(url):
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))


def redirect_of(prompt):
    """Where the browser will be sent, and its port."""
    redirect = query(prompt["auth_url"])["redirect_uri"]
    return redirect, urllib.parse.urlsplit(redirect).port


class Provider:
    """The authorization server, and what it has seen."""

    def __init__(self):
        log = open(FIXTURE / "provider", "a")
        self.process = subprocess.Popen(
            ["node", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        self.says = json.loads(self.process.stdout.readline())
        self.issuer = self.says["issuer"]

    def configure(self):
        common = 'scopes = ["openid", "offline_access"]\nauthorization_params = { prompt = "consent" }\n'
        directory = pathlib.Path(os.environ["XDG_CONFIG_HOME"]) / "credbroker"
        directory.mkdir(exist_ok=True)
        (directory / "config.toml").write_text(
            f'[providers.native]\nissuer = "{self.issuer}"\nclient_id = "native"\nflow = "browser_redirect"\n{common}'
            f'[providers.paste]\nissuer = "{self.issuer}"\nclient_id = "paste"\nflow = "pkce_redirect"\n'
            f'redirect_url = "{self.says["page"]}"\n{common}'
        )

    def _json(self, url, **form):
        with urllib.request.urlopen(url, urllib.parse.urlencode(form).encode() if form else None, timeout=20) as answer:
            return json.load(answer)

    def seen(self):
        return self._json(self.says["about"])

    def introspect(self, client, token):
        return self._json(self.issuer + "/token/introspection", token=token, client_id=client)

    def tokens_of(self, sub):
        return [tokens for tokens in self.seen()["tokens"] if tokens["sub"] == sub]

    def end(self):
        self.process.stdin.close()
        self.process.wait(PATIENCE)


def login_command(provider, bucket, *arguments, json=True):
    how = ["--no-browser", "--json"] if json else ["--no-browser"]
    return [BINARY, "login", provider, "--bucket", bucket, *how, *arguments]


class Shell:
    """A shell at the other end of a pipe, in a sandbox or on the host. Its standard error is a terminal, on which `run`
    says what it says to people. Everything it prints is kept for the search for secrets."""

    LOOP = 'while read -r line; do eval "$line"; echo "exit $?"; done'

    def __init__(self, name, *rights):
        command = ["sh", "-c", self.LOOP]
        if rights:
            command = [BINARY, "run", *rights, "--", *command]
        terminal, other = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=other,
            env={**os.environ, "RUST_LOG": "trace"},
            text=True,
            bufsize=1,
        )
        os.close(other)
        self._lines = queue.Queue()
        self._terminal = RECORDS / f"{name}.terminal"
        self._threads = [
            threading.Thread(target=self._print, args=(RECORDS / f"{name}.out",), daemon=True),
            threading.Thread(target=self._show, args=(terminal,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _print(self, path):
        with open(path, "w") as record:
            for line in self.process.stdout:
                record.write(line)
                record.flush()
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def _show(self, terminal):
        with open(self._terminal, "wb", buffering=0) as record:
            while True:
                try:
                    shown = os.read(terminal, 65536)
                except OSError:  # The other side is closed.
                    shown = b""
                if not shown:
                    break
                record.write(shown)
        os.close(terminal)

    def terminal(self):
        """What it showed to people, without the log."""
        lines = self._terminal.read_text(errors="replace").replace("\r", "").split("\n")
        return "\n".join(line for line in lines if not re.match(r"(\x1b\[\d*m)?\d{4}-\d\d-\d\dT", line))

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def line(self, seconds=PATIENCE):
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"nothing was printed in {seconds} s; the terminal: {self.terminal()[-400:]}") from None
        if line is None:
            raise AssertionError(f"it ended; the terminal: {self.terminal()[-400:]}")
        return line

    def rest(self, seconds=PATIENCE):
        """What is printed until the command ends, and its status."""
        lines = []
        while True:
            line = self.line(seconds)
            if line.startswith("exit "):
                return lines, int(line.split()[1])
            lines.append(line)

    def run(self, *arguments):
        """Runs credbroker to its end."""
        self.say(shlex.join([BINARY, *arguments]))
        return self.rest()

    def begin_login(self, provider, bucket, *arguments):
        """Begins a login; what the person is to see."""
        self.say(shlex.join(login_command(provider, bucket, *arguments)))
        return self.prompt()

    def prompt(self):
        line = self.line()
        if line.startswith("exit "):
            raise AssertionError(f"the login ended at once, with {line}: {self.terminal()[-400:]}")
        event = json.loads(line)
        assert event["event"] == "prompt", event
        Watch.now()
        prompts.append(event)
        return dict(event)

    def outcome(self):
        """The last event of a login, and its status."""
        lines, status = self.rest()
        assert len(lines) == 1, lines
        return json.loads(lines[0]), status

    def completes(self):
        event, status = self.outcome()
        assert (event["event"], status) == ("complete", 0), (event, status)
        return event

    def fails(self, reason, code=77):
        event, status = self.outcome()
        assert (event["event"], event.get("reason"), status) == ("error", reason, code), (event, status)
        return event

    def answer(self, prompt, person):
        """Does what a person who agrees does. The last page."""
        if prompt["flow"] == "device_code":
            page = person.agree(prompt["verification_url"], prompt["user_code"])
            assert "successful" in page.text, page.text
        else:
            page = person.agree(prompt["auth_url"])
            assert page.status == 200, (page.status, page.url)
            if prompt["flow"] == "pkce_redirect":
                self.say(page.code)
            else:
                assert page.url.startswith(redirect_of(prompt)[0] + "?"), page.url
        return page

    def log_in(self, provider, bucket, name, *arguments):
        prompt = self.begin_login(provider, bucket, *arguments)
        self.answer(prompt, Person(name))
        return self.completes()

    def token(self, provider, bucket):
        lines, status = self.run("token", "get", provider, "--bucket", bucket, "--json")
        assert status == 0, (status, self.terminal()[-400:])
        return json.loads("".join(lines))

    def end(self):
        self.process.stdin.close()
        status = self.process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.terminate()
                self.process.wait(20)


def sandbox(name, entry, *more):
    return Shell(name, "--allow", entry, "--allow-login", entry, *more)


def status(provider, bucket):
    """What `status` on the host says about the entry."""
    said = subprocess.run([BINARY, "status", "--json"], capture_output=True, text=True, timeout=PATIENCE, check=True)
    for entry in json.loads(said.stdout)["entries"]:
        if (entry["provider"], entry["bucket"]) == (provider, bucket):
            return entry
    return None


class Watch:
    """Arguments and environments of every process of this ring, as `ps` would show them."""

    seen = set()
    _stop = threading.Event()

    @classmethod
    def now(cls):
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if os.getsid(int(process.name)) == os.getsid(0):
                    cls.seen.add((process / "cmdline").read_bytes())
                    cls.seen.add((process / "environ").read_bytes())
            except OSError:  # It has ended.
                pass

    @classmethod
    def _watch(cls):
        while not cls._stop.wait(0.25):
            cls.now()

    @classmethod
    def start(cls):
        threading.Thread(target=cls._watch, daemon=True).start()

    @classmethod
    def end(cls):
        cls._stop.set()
        (RECORDS / "processes").write_bytes(b"\n".join(cls.seen))

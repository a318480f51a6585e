"""What the ring needs around the broker: a provider that can be out of reach, an API that asks the provider about every
token it gets, Envoys, and a client of theirs that asks without end."""

import base64
import hashlib
import http.client
import http.server
import json
import os
import pathlib
import re
import secrets
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

FIXTURE = pathlib.Path(os.environ["ENVOY_FIXTURE"])
BINARY = os.environ["ENVOY_BINARY"]
EXAMPLE = pathlib.Path(os.environ["ENVOY_EXAMPLE"]).read_text()
ENTRY = "idp/default"


def until(what, holds, seconds):
    """Waits until something is true, and says how long that took."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > seconds:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.01)
    return time.monotonic() - start


class Provider:
    """npm's oidc-provider, and the way to it, which can be closed."""

    def __init__(self):
        self.process = subprocess.Popen(
            ["node", os.environ["ENVOY_SERVER"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
        )
        self.told = json.loads(self.process.stdout.readline())
        quote = urllib.parse.quote_plus
        basic = f"{quote(self.told['client_id'])}:{quote(self.told['client_secret'])}"
        self.authorization = "Basic " + base64.b64encode(basic.encode()).decode()
        self.port = urllib.parse.urlsplit(self.told["issuer"]).port
        self.way = None
        self.way_port = 0
        self.open()

    def open(self):
        if self.way:
            return
        far = ("127.0.0.1", self.port)

        class Way(socketserver.BaseRequestHandler):
            def handle(self):
                with socket.create_connection(far) as there:
                    back = threading.Thread(target=pass_on, args=(there, self.request), daemon=True)
                    back.start()
                    pass_on(self.request, there)
                    back.join()

        socketserver.ThreadingTCPServer.allow_reuse_address = True
        socketserver.ThreadingTCPServer.daemon_threads = True
        self.way = socketserver.ThreadingTCPServer(("127.0.0.1", self.way_port), Way)
        self.way_port = self.way.server_address[1]
        threading.Thread(target=self.way.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        """From now on nobody gets through: connections are refused."""
        self.way.shutdown()
        self.way.server_close()
        self.way = None

    def another_login(self):
        """The token set that a login leaves behind."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        # The provider has remarks of its own on its standard output.
        line = next(line for line in self.process.stdout if line.startswith("{"))
        return self.asked("/token", {"grant_type": "refresh_token", **json.loads(line)})

    def asked(self, path, form):
        form = urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(self.told["issuer"] + path, form, {"Authorization": self.authorization})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"the provider answered {error.code}: {error.read().decode()}") from error

    def active(self, token):
        return self.asked("/token/introspection", {"token": token})["active"]

    def end(self):
        if self.way:
            self.close()
        self.process.stdin.close()
        self.process.wait(10)


def pass_on(here, there):
    try:
        while data := here.recv(65536):
            there.sendall(data)
        there.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Api:
    """What the token is for: 200 if the provider says that it is active, else 403, which no request of ours may get."""

    def __init__(self, provider):
        self.tokens = []
        api = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                token = self.headers.get("authorization", "").removeprefix("Bearer ")
                api.tokens.append(token)
                active = provider.active(token)
                self.send_response(200 if active else 403)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Broker:
    """`serve` at a path of its own, with a policy of one sandbox."""

    def __init__(self, provider):
        self.socket = FIXTURE / "broker.sock"
        self.capability = secrets.token_hex(32)
        digest = hashlib.sha256(bytes.fromhex(self.capability)).hexdigest()
        self.policy = FIXTURE / "sandboxes.toml"
        self.policy.write_text(
            f'[sandboxes.agent]\ncapability_sha256 = "{digest}"\nallow = ["idp", "absent"]\nallow_key = ["openai"]\n'
        )
        secret = FIXTURE / "secret"
        secret.touch(0o600)
        secret.write_text(provider.told["client_secret"])
        config = FIXTURE / "config/credbroker/config.toml"
        config.parent.mkdir(exist_ok=True)
        config.write_text(
            f"""[providers.idp]
token_endpoint = "http://127.0.0.1:{provider.way_port}/token"
revocation_endpoint = "http://127.0.0.1:{provider.way_port}/token/revocation"
client_id = "{provider.told['client_id']}"
client_secret_file = "{secret}"
"""
        )
        self.log = open(FIXTURE / "broker.log", "a", encoding="utf-8")
        self.process = None

    def command(self, *arguments, **options):
        return subprocess.run(
            [BINARY, *arguments], check=True, capture_output=True, text=True, timeout=60, **options
        ).stdout

    def store(self, answer):
        self.command("token", "import", "idp", input=json.dumps(answer))

    def start(self):
        self.process = subprocess.Popen(
            [BINARY, "serve", "--socket", str(self.socket), "--policy", str(self.policy)], stderr=self.log
        )
        until("the broker serves", self.socket.exists, 10)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0

    def audit(self):
        files = (FIXTURE / "state/credbroker/audit").glob("*.jsonl")
        lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        return [line for line in lines if "event" not in line]


class Envoy:
    """The real one, with the documented configuration and as few changes as can be: paths, the API's address, and that
    this API speaks no TLS."""

    def __init__(self, name, broker, api, *changes):
        self.directory = FIXTURE / name
        self.directory.mkdir(mode=0o700)
        self.api = self.directory / "api.sock"
        self.admin = FIXTURE / f"{name}-admin.sock"
        text = EXAMPLE
        for old, new in [
            ("/run/user/1000/sandbox-agent", str(self.directory)),
            ("{ path: /run/user/1000/credbroker.sock }", f"{{ path: {broker.socket} }}"),
            ("{ address: api.github.com, port_value: 443 }", f"{{ address: 127.0.0.1, port_value: {api.port} }}"),
            ("name: token/github/default", f"name: token/{ENTRY}"),
            ("Bearer CAPABILITY", f"Bearer {broker.capability}"),
            *changes,
        ]:
            assert old in text, f"the example does not say {old!r}"
            text = text.replace(old, new)
        text, tls = re.subn(
            r" *# Envoy checks a certificate.*?(?= *typed_extension_protocol_options)", "", text, count=1, flags=re.S
        )
        assert tls == 1
        self.config = self.directory / "envoy.yaml"
        self.config.touch(0o600)
        self.config.write_text(text)
        self.process = None

    def validate(self):
        subprocess.run([os.environ["ENVOY"], "--mode", "validate", "-c", self.config], check=True, stdout=sys.stderr)

    def start(self):
        log = open(self.directory / "log", "w")
        arguments = ["--disable-hot-restart", "--concurrency", "1", "-l", "info"]
        self.process = subprocess.Popen([os.environ["ENVOY"], "-c", self.config, *arguments], stdout=log, stderr=log)
        # Its clusters wait for their secrets, at most as long as Envoy waits for a first answer (15 s).
        until("an Envoy is ready", lambda: self.admin.exists() and self.asked("/ready").startswith("LIVE"), 40)

    def asked(self, path):
        try:
            return self.request("GET", path, self.admin)[1]
        except OSError:
            return ""

    def request(self, method="GET", path="/repos/a", at=None, headers=None):
        connection = http.client.HTTPConnection("localhost", timeout=10)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(str(at or self.api))
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def status(self, *arguments, **options):
        return self.request(*arguments, **options)[0]

    def stat(self, name):
        found = re.search(rf"^{re.escape(name)}: (.*)$", self.asked("/stats"), re.M)
        return found and found.group(1)

    def stop(self):
        self.process.terminate()
        self.process.wait(30)


class Load:
    """Some who ask all the time. What they got, and when."""

    def __init__(self, envoy, clients=4, pause=0.02):
        self.answers = []
        self.ending = threading.Event()

        def ask():
            while not self.ending.is_set():
                try:
                    status = envoy.status()
                except OSError as error:
                    status = repr(error)
                self.answers.append((time.monotonic(), status))
                time.sleep(pause)

        self.threads = [threading.Thread(target=ask, daemon=True) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def statuses(self, since=0.0):
        return {status for at, status in list(self.answers) if at >= since}

    def first(self, status, since):
        return next((at for at, got in list(self.answers) if at >= since and got == status), None)

    def end(self):
        self.ending.set()
        for thread in self.threads:
            thread.join(15)

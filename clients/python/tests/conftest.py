"""What the tests share: the sandbox that they run in, and brokers of their own."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import credbroker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 20.0


def variable(name: str) -> str:
    """A variable that the ring sets. A test that cannot run has failed."""
    value = os.environ.get(name)
    if not value:
        pytest.fail(f"{name} is not set: run tests/interop/run.sh clients", pytrace=False)
    return value


def eventually(what: str, condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What the condition gives as soon as it is true."""
    end = time.monotonic() + seconds
    while not (got := condition()):
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return got


class Provider:
    """A token endpoint on loopback whose every answer is a new token. `lifetime` and `failing` may change at any time."""

    def __init__(self) -> None:
        self.lifetime = 3600.0
        self.failing: tuple[int, dict[str, str]] | None = None
        self.issued: list[str] = []
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                assert form["grant_type"] == ["refresh_token"], form
                status, answer = provider.answer()
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self) -> tuple[int, dict[str, object]]:
        if self.failing is not None:
            return self.failing[0], dict(self.failing[1])
        self.issued.append(f"token-{len(self.issued)}")
        token = {"access_token": self.issued[-1], "token_type": "bearer", "expires_in": self.lifetime}
        return 200, {**token, "refresh_token": secrets.token_hex(8)}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Broker:
    """A broker of the test's own, with its own store. It listens at `socket` while it is started."""

    def __init__(self, directory: Path, binary: str) -> None:
        self.directory, self.binary = directory, binary
        self.socket = str(directory / "sock")
        self.capability = secrets.token_hex(32)
        self.log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._file = directory / "capability"
        self._file.write_text(self.capability)
        self._file.chmod(0o600)
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith(("CREDBROKER_", "XDG_"))}
        for name in ("runtime", "data", "state", "config"):
            (directory / name).mkdir(mode=0o700)
            self._environment[f"XDG_{name.upper()}{'_DIR' if name == 'runtime' else '_HOME'}"] = str(directory / name)

    def configure(self, toml: str) -> None:
        path = self.directory / "config" / "credbroker" / "config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(toml)

    def host(self, *arguments: str, given: str = "") -> str:
        """Runs the command on the host's side of the broker."""
        done = subprocess.run(
            [self.binary, *arguments], env=self._environment, input=given, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def store(self, provider: str, access_token: str, **further: object) -> None:
        self.host("token", "import", provider, given=json.dumps({"access_token": access_token, **further}))

    def provided(self, name: str, provider: Provider, expires_in: float = 0) -> None:
        """An entry that the provider renews. Its first token, `stored`, is not one of the provider's."""
        self.configure(f'[providers.{name}]\ntoken_endpoint = "{provider.url}"\nclient_id = "tests"\n')
        self.store(name, "stored", refresh_token="first", expires_in=expires_in)

    def start(self, *arguments: str) -> None:
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.binary, "serve", "--socket", self.socket, "--capability-file", str(self._file), *arguments],
                env=self._environment,
                stderr=log,
            )

        def listens() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, self.log.read_text()
            with contextlib.suppress(credbroker.Unreachable), self.client() as client:
                return bool(client.server_info().version)
            return False

        eventually("the broker listens", listens)

    def stop(self, *, kill: bool = False) -> None:
        if self._process is not None:
            self._process.kill() if kill else self._process.terminate()
            self._process.wait(PATIENCE)
            self._process = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self, **further: Any) -> credbroker.Client:
        return credbroker.Client(self.socket, self.capability, **further)

    def aclient(self, **further: Any) -> credbroker.AsyncClient:
        return credbroker.AsyncClient(self.socket, self.capability, **further)


@pytest.fixture
def broker() -> Iterator[Broker]:
    # Not pytest's own directory: the path of a socket may be 107 bytes long.
    directory = tempfile.mkdtemp(prefix="cb-")
    broker = Broker(Path(directory), variable("CREDBROKER_BIN"))
    yield broker
    broker.stop()
    shutil.rmtree(directory)


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()

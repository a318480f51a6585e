"""Token sources, blocking and asyncio, through what happens to brokers, entries and the programs that use them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from conftest import PATIENCE, eventually

import credbroker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Broker, Provider


class Source:
    """A token source of either kind, called the blocking way. The asyncio one has a loop in a thread of its own."""

    def __init__(self, broker: Broker, kind: str, provider: str, **arguments: Any) -> None:
        self._run: Callable[[Any], Any] = lambda answer: answer
        self._loop: asyncio.AbstractEventLoop | None = None
        self.client: Any = broker.client(**arguments) if kind == "blocking" else broker.aclient(**arguments)
        if kind == "asyncio":
            loop = self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=loop.run_forever, daemon=True)
            self._thread.start()
            self._run = lambda awaitable: asyncio.run_coroutine_threadsafe(awaitable, loop).result(PATIENCE)
        self.source = self.client.token_source(provider)

    def token(self) -> credbroker.Token:
        return self._run(self.source.token())  # type: ignore[no-any-return]

    def refresh(self, refused: credbroker.Token) -> credbroker.Token:
        return self._run(self.source.refresh(refused))  # type: ignore[no-any-return]

    def call(self, method: str, *arguments: Any) -> Any:
        return self._run(getattr(self.client, method)(*arguments))

    def close(self) -> None:
        self._run(self.client.close())
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


@pytest.fixture(params=["blocking", "asyncio"])
def source_of(request: pytest.FixtureRequest, broker: Broker) -> Iterator[Callable[..., Source]]:
    made: list[Source] = []

    def make(provider: str, **arguments: Any) -> Source:
        made.append(Source(broker, request.param, provider, **arguments))
        return made[-1]

    yield make
    for source in made:
        source.close()


def test_a_new_token_is_pushed(broker: Broker, source_of: Callable[..., Source]) -> None:
    broker.store("github", "one", expires_in=3600)
    broker.start()
    source = source_of("github")
    assert source.token().access_token == "one"
    broker.store("github", "two", expires_in=60)
    eventually("the new token", lambda: source.token().access_token == "two")


def test_asking_costs_no_call(broker: Broker, source_of: Callable[..., Source]) -> None:
    broker.store("github", "one", expires_in=3600)
    broker.start()
    source = source_of("github")
    source.token()
    # The first answer, and the watch's first message.
    eventually("the watch", lambda: source.call("bucket_stats", "github").request_count == 2)
    for _ in range(1000):
        source.token()
    assert source.call("bucket_stats", "github").request_count == 2


@pytest.mark.parametrize("kill", [False, True])
def test_a_broker_that_is_started_again_is_found(
    broker: Broker, provider: Provider, source_of: Callable[..., Source], kill: bool
) -> None:
    provider.lifetime = 4
    broker.provided("acme", provider)
    broker.start()
    source = source_of("acme")
    held = source.token()
    broker.stop(kill=kill)
    left = source.token().expires_in or 0.0
    assert source.token().access_token in provider.issued, "the token is served while the broker is away"
    # Until it expires, and not a moment longer.
    served = time.monotonic()
    error = None
    while error is None:
        assert time.monotonic() < served + left
        error = _error(source)
    assert type(error) is credbroker.Unreachable
    assert time.monotonic() - served > left * 0.8
    broker.start()
    token = eventually("a token of the new broker", lambda: _token_or_none(source))
    assert token.access_token != held.access_token
    # It is followed again, without anybody asking.
    count = len(provider.issued)
    eventually("a renewal", lambda: len(provider.issued) > count)
    eventually("the renewed token", lambda: source.token().access_token == provider.issued[-1])


def _token_or_none(source: Source) -> credbroker.Token | None:
    try:
        return source.token()
    except credbroker.Unreachable:
        return None


def test_a_broker_that_pauses_shortly_is_not_noticed(
    broker: Broker, provider: Provider, source_of: Callable[..., Source]
) -> None:
    provider.lifetime = 5
    broker.provided("acme", provider)
    broker.start()
    source = source_of("acme")
    source.token()
    wrong: list[Exception] = []
    over = threading.Event()

    def use() -> None:
        while not over.wait(0.02):
            try:
                assert source.token().usable
            except Exception as error:
                wrong.append(error)

    user = threading.Thread(target=use)
    user.start()
    for _ in range(3):
        time.sleep(1)
        broker.stop()
        broker.start()
    over.set()
    user.join()
    assert wrong == []


def test_an_entry_that_is_removed_and_comes_back(broker: Broker, source_of: Callable[..., Source]) -> None:
    broker.store("github", "one", expires_in=3600)
    broker.start()
    source = source_of("github")
    source.token()
    broker.host("logout", "github")
    error = eventually("the removal", lambda: _error(source))
    assert type(error) is credbroker.NotFound
    assert type(_error(source)) is credbroker.NotFound
    broker.store("github", "two", expires_in=3600)
    assert source.token().access_token == "two"
    broker.store("github", "three", expires_in=3600)
    eventually("it is followed again", lambda: source.token().access_token == "three")


def _error(source: Source) -> Exception | None:
    try:
        source.token()
    except credbroker.CredbrokerError as error:
        return error
    return None


def test_a_refused_refresh_token_needs_a_login(broker: Broker, provider: Provider, source_of: Callable[..., Source]) -> None:
    provider.lifetime = 3
    broker.provided("acme", provider)
    broker.start()
    source = source_of("acme")
    source.token()
    provider.failing = 400, {"error": "invalid_grant"}
    error = eventually("the end of the last token", lambda: _error(source))
    assert type(error) is credbroker.NeedsLogin
    assert error.metadata["provider"] == "acme"
    assert not error.transient
    provider.failing = None
    broker.store("acme", "after a login", refresh_token="another", expires_in=3600)
    # The broker looks at the disk every 0.1 s.
    eventually("the new token set", lambda: _error(source) is None)
    assert source.token().access_token == "after a login"


def test_a_provider_that_fails(broker: Broker, provider: Provider, source_of: Callable[..., Source]) -> None:
    broker.provided("acme", provider, 2)
    broker.start()
    provider.failing = 503, {}
    source = source_of("acme")
    source.token()
    error = eventually("the end of the last token", lambda: _error(source))
    assert type(error) is credbroker.ProviderUnavailable
    assert error.transient
    assert error.retry_after is not None
    assert error.retry_after >= 0
    provider.failing = None
    eventually("its recovery", lambda: _error(source) is None)
    assert source.token().access_token == "token-0"


def test_a_refused_token_is_replaced_once_for_all(
    broker: Broker, provider: Provider, source_of: Callable[..., Source]
) -> None:
    broker.provided("acme", provider, 3600)
    broker.start()
    source = source_of("acme")
    refused = source.token()
    assert refused.access_token == "stored"
    with ThreadPoolExecutor(20) as pool:
        tokens = list(pool.map(source.refresh, [refused] * 20))
    assert {token.access_token for token in tokens} == {"token-0"}
    # Who comes late gets what there is.
    assert source.refresh(refused).access_token == "token-0"
    assert source.token().access_token == "token-0"
    # And what is so new is not renewed.
    assert source.refresh(source.token()).access_token == "token-0"
    assert provider.issued == ["token-0"]


def test_many_ask_at_once(broker: Broker, provider: Provider, source_of: Callable[..., Source]) -> None:
    broker.provided("acme", provider)
    broker.start()
    source = source_of("acme")
    with ThreadPoolExecutor(100) as pool:
        tokens = list(pool.map(lambda _: source.token().access_token, range(100)))
    assert set(tokens) == {"token-0"}
    # One question, and the watch.
    eventually("the watch", lambda: source.call("bucket_stats", "acme").request_count == 2)
    assert provider.issued == ["token-0"]


def test_many_who_ask_in_vain_share_one_answer(broker: Broker, provider: Provider, source_of: Callable[..., Source]) -> None:
    broker.provided("acme", provider)
    broker.start()
    os.kill(broker.pid, signal.SIGSTOP)
    source = source_of("acme", timeout=1)
    start = time.monotonic()
    try:
        with ThreadPoolExecutor(20) as pool:
            errors = list(pool.map(lambda _: _error(source), range(20)))
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    assert {type(error) for error in errors} == {credbroker.DeadlineExceeded}
    assert time.monotonic() - start < 5, "they waited one after the other"


def test_a_wrong_clock_does_not_matter(
    broker: Broker, source_of: Callable[..., Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.store("github", "one", expires_in=3600)
    broker.start()
    monkeypatch.setattr(time, "time", lambda: 4e9)
    source = source_of("github")
    assert source.token().usable
    assert 3500 < (source.token().expires_in or 0) <= 3600


def test_after_close(broker: Broker, source_of: Callable[..., Source]) -> None:
    broker.store("github", "one", expires_in=3600)
    broker.start()
    source = source_of("github")
    source.token()
    source._run(source.source.close())
    assert type(_error(source)) is credbroker.ClientClosed
    again = source.client.token_source("github")
    assert again is not source.source
    assert source._run(again.token()).access_token == "one"
    source._run(source.client.close())
    with pytest.raises(credbroker.ClientClosed):
        source.call("get_token", "github")
    with pytest.raises(credbroker.ClientClosed):
        source._run(again.token())
    source._run(source.client.close())
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("credbroker")]


def test_closing_ends_the_calls_under_way(broker: Broker, provider: Provider, source_of: Callable[..., Source]) -> None:
    broker.provided("acme", provider)
    broker.start()
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        source = source_of("acme")
        with ThreadPoolExecutor(2) as pool:
            asked = pool.submit(lambda: _error(source))
            eventually("the question", lambda: source.source._flights)
            source._run(source.client.close())
            assert type(asked.result(5)) is credbroker.ClientClosed
    finally:
        os.kill(broker.pid, signal.SIGCONT)


def test_a_cancelled_task_takes_no_other_along(broker: Broker, provider: Provider) -> None:
    broker.provided("acme", provider)
    broker.start()

    async def main() -> str:
        async with broker.aclient() as client:
            tokens = client.token_source("acme")
            os.kill(broker.pid, signal.SIGSTOP)
            first = asyncio.create_task(tokens.token())
            second = asyncio.create_task(tokens.token())
            await asyncio.sleep(0.1)
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            os.kill(broker.pid, signal.SIGCONT)
            return (await asyncio.wait_for(second, PATIENCE)).access_token

    assert asyncio.run(main()) == "token-0"


def test_a_cancelled_call_is_cancelled(broker: Broker) -> None:
    broker.store("github", "one", expires_in=3600)
    broker.start()

    async def main() -> None:
        async with broker.aclient() as client:
            await client.server_info()
            os.kill(broker.pid, signal.SIGSTOP)
            try:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(client.get_token("github"), 0.2)
            finally:
                os.kill(broker.pid, signal.SIGCONT)
            assert (await client.get_token("github")).access_token == "one"

    asyncio.run(main())


@pytest.mark.parametrize("closed", [True, False])
def test_streams(broker: Broker, closed: bool) -> None:
    broker.store("github", "one", expires_in=3600)
    broker.start()
    with broker.client() as client, client.watch_token("github") as stream:
        assert next(stream).access_token == "one"
        if closed:
            stream.close()
            assert list(stream) == []
        else:
            broker.stop()
            with pytest.raises((credbroker.ShuttingDown, credbroker.Unreachable)):
                next(stream)


def test_async_streams(broker: Broker) -> None:
    broker.store("github", "one", expires_in=3600)
    broker.start()

    async def main() -> None:
        async with broker.aclient() as client, client.watch_token("github") as stream:
            assert (await anext(stream)).access_token == "one"
            pending = asyncio.create_task(anext(stream))
            await asyncio.sleep(0.05)
            stream.close()
            with pytest.raises(StopAsyncIteration):
                await pending
            assert [token async for token in stream] == []

    asyncio.run(main())


PROGRAM = """
import os, sys, credbroker
client = credbroker.Client()
source = client.token_source("github")
print(source.token().access_token, flush=True)
{}
"""


@pytest.mark.parametrize(
    ("ending", "output"),
    [
        ("", "one\n"),
        ("sys.exit(0)", "one\n"),
        (
            "child = os.fork()\n"
            "if child: sys.exit(os.waitpid(child, 0)[1])\n"
            "try: source.token()\n"
            "except credbroker.ClientClosed as error: print(error, flush=True)\n"
            "os._exit(0)",
            "one\nthe client was made in another process: make one after the fork\n",
        ),
    ],
)
def test_a_program_ends_although_it_closes_nothing(broker: Broker, ending: str, output: str) -> None:
    broker.store("github", "one", expires_in=3600)
    broker.start()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(ending)],
        env={**os.environ, "CREDBROKER_SOCKET": broker.socket, "CREDBROKER_CAPABILITY": broker.capability},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (0, output), done.stderr
    assert "Traceback" not in done.stderr


def test_saving_and_removing(broker: Broker) -> None:
    broker.store("github", "one", expires_in=3600)
    broker.start("--allow", "*", "--allow-save", "*", "--allow-remove", "*")
    with broker.client() as client:
        client.save_token("github", "mine", expires_in=60, scope="repo")
        token = client.get_token("github")
        assert (token.access_token, token.scope) == ("mine", "repo")
        assert 50 < (token.expires_in or 0) <= 60
        assert client.remove_token("github") is credbroker.Revocation.NOT_SUPPORTED
        with pytest.raises(credbroker.NotFound):
            client.get_token("github")


def test_long_lists(broker: Broker) -> None:
    names = [f"p{i:03}" for i in range(103)]
    for name in names:
        broker.host("key", "set", name, given="sk\n")
    broker.start("--allow-key", "*")
    with broker.client() as client:
        assert client.list_api_keys() == names

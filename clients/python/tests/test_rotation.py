"""A token that lives for 5 seconds, used for TEST_SECONDS as fast as every 50 ms: never refused, never an error, and the
stream that brings it is never broken."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable

import httpx
import pytest
import requests
from conftest import variable

import credbroker
import credbroker.httpx
import credbroker.requests

PAUSE = 0.05


class Use:
    """What one user of the token saw."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wrong: list[str] = []
        self.revisions: set[str] = set()
        self.times = 0
        self.slowest = 0.0

    def took(self, seconds: float) -> None:
        self.slowest = max(self.slowest, seconds)

    def saw(self, status: int, token: credbroker.Token) -> None:
        self.times += 1
        self.revisions.add(token.revision)
        if status != 200:
            self.wrong.append(f"{status}, {token!r}")

    def during(self, seconds: float, use: Callable[[], None]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                use()
            except Exception as error:
                self.wrong.append(repr(error))
            time.sleep(PAUSE)

    async def aduring(self, seconds: float, use: Callable[[], Awaitable[None]]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                await use()
            except Exception as error:
                self.wrong.append(repr(error))
            await asyncio.sleep(PAUSE)


def test_a_rotating_token_is_always_good(monkeypatch: pytest.MonkeyPatch) -> None:
    url, seconds = variable("TEST_RESOURCE_URL"), float(variable("TEST_SECONDS"))
    streams: list[str] = []
    refreshes: list[str] = []
    for kind in (credbroker.Client, credbroker.AsyncClient):
        watch = kind.watch_token

        def watched(*arguments: object, watch: Callable[..., object] = watch) -> object:
            streams.append(type(arguments[0]).__name__)
            return watch(*arguments)

        monkeypatch.setattr(kind, "watch_token", watched)
    for source in (credbroker.TokenSource, credbroker.AsyncTokenSource):
        monkeypatch.setattr(source, "refresh", lambda *_: refreshes.append("a 401"))

    plain, with_requests, with_httpx, in_tasks = Use("plain"), Use("requests"), Use("httpx"), Use("asyncio")

    def blocking() -> None:
        with credbroker.Client() as broker, httpx.Client() as http:
            tokens = broker.token_source("acme")
            with httpx.Client(auth=credbroker.httpx.BrokerAuth(tokens)) as auth, requests.Session() as session:
                session.auth = credbroker.requests.BrokerAuth(tokens)

                def use_plain() -> None:
                    start = time.monotonic()
                    token = tokens.token()
                    plain.took(time.monotonic() - start)
                    plain.saw(http.get(url, headers={"authorization": token.authorization}).status_code, token)

                others = [
                    threading.Thread(target=use.during, args=(seconds, call))
                    for use, call in (
                        (with_httpx, lambda: with_httpx.saw(auth.get(url).status_code, tokens.token())),
                        (with_requests, lambda: with_requests.saw(session.get(url).status_code, tokens.token())),
                    )
                ]
                tokens.token()
                for thread in others:
                    thread.start()
                plain.during(seconds, use_plain)
                for thread in others:
                    thread.join()

    async def tasks() -> None:
        async with credbroker.AsyncClient() as broker:
            tokens = broker.token_source("acme")
            await tokens.token()
            async with httpx.AsyncClient(auth=credbroker.httpx.AsyncBrokerAuth(tokens)) as http:

                async def use() -> None:
                    start = time.monotonic()
                    token = await tokens.token()
                    in_tasks.took(time.monotonic() - start)
                    in_tasks.saw((await http.get(url)).status_code, token)

                await in_tasks.aduring(seconds, use)

    thread = threading.Thread(target=blocking)
    thread.start()
    asyncio.run(tasks())
    thread.join()

    for use in (plain, with_httpx, with_requests, in_tasks):
        print(f"{use.name}: {use.times} times, {len(use.revisions)} tokens, slowest ask {use.slowest * 1000:.1f} ms")
        assert use.wrong == [], use.name
        assert len(use.revisions) >= seconds / 5, use.name
        assert use.times >= seconds * 5, use.name
    assert refreshes == []
    assert sorted(streams) == ["AsyncClient", "Client"]

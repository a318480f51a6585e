"""What httpx and requests do with a fresh token, and with one that is refused: a resource server of the test's own, which
counts what it is sent, behind a broker of the test's own."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import requests
from conftest import Broker, Provider

import credbroker
from credbroker.httpx import AsyncBrokerAuth
from credbroker.httpx import BrokerAuth as HttpxAuth
from credbroker.requests import BrokerAuth as RequestsAuth


class Resource:
    """Answers with 200, or with 401 where the token is one of `refused`. `redirect` is where it sends to instead."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.redirect = ""
        self.seen: list[tuple[str | None, bytes]] = []
        resource = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                if self.headers["transfer-encoding"]:
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers["content-length"] or 0))
                authorization = self.headers["authorization"]
                resource.seen.append((authorization, body))
                kind, _, token = (authorization or "").partition(" ")
                good = kind == "Bearer" and token not in resource.refused and "*" not in resource.refused
                self.send_response(307 if resource.redirect else 200 if good else 401)
                if resource.redirect:
                    self.send_header("location", resource.redirect)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        # Another host, as far as a client knows.
        self.elsewhere = f"http://localhost:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def tokens(self) -> list[str | None]:
        return [authorization and authorization.removeprefix("Bearer ") for authorization, _ in self.seen]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def resource() -> Iterator[Resource]:
    resource = Resource()
    yield resource
    resource.close()


Send = Callable[..., int]


def with_requests(broker: Broker, url: str, body: Any) -> int:
    with broker.client() as client, requests.Session() as session:
        session.auth = RequestsAuth(client.token_source("acme"))
        answer = session.post(url, data=body)
        assert answer.text == "{}"
        return answer.status_code


def with_httpx(broker: Broker, url: str, body: Any) -> int:
    with broker.client() as client:
        auth = HttpxAuth(client.token_source("acme"))
        with httpx.Client(auth=auth, follow_redirects=True) as session:
            answer = session.post(url, content=body)
            assert answer.text == "{}"
            return answer.status_code


def with_async_httpx(broker: Broker, url: str, body: Any) -> int:
    async def stream() -> Any:
        for part in body:
            yield part

    async def main() -> int:
        async with broker.aclient() as client:
            auth = AsyncBrokerAuth(client.token_source("acme"))
            async with httpx.AsyncClient(auth=auth, follow_redirects=True) as session:
                answer = await session.post(url, content=body if isinstance(body, bytes | None) else stream())
                assert answer.text == "{}"
                return answer.status_code

    return asyncio.run(main())


@pytest.fixture(params=[with_requests, with_httpx, with_async_httpx])
def send(request: pytest.FixtureRequest, broker: Broker, provider: Provider) -> Send:
    broker.provided("acme", provider, 3600)
    broker.start()
    return lambda url, body=b"a body": request.param(broker, url, body)


def test_the_token_is_sent(send: Send, resource: Resource) -> None:
    assert send(resource.url) == 200
    assert resource.seen == [("Bearer stored", b"a body")]


def test_a_refused_token_is_replaced_once(send: Send, resource: Resource) -> None:
    resource.refused = {"stored"}
    assert send(resource.url) == 200
    assert resource.seen == [("Bearer stored", b"a body"), ("Bearer token-0", b"a body")]


def test_a_second_refusal_is_the_answer(send: Send, resource: Resource, provider: Provider) -> None:
    resource.refused = {"*"}
    assert send(resource.url) == 401
    assert resource.tokens() == ["stored", "token-0"]
    assert provider.issued == ["token-0"]


def test_a_body_that_is_gone_is_not_sent_again(send: Send, resource: Resource) -> None:
    resource.refused = {"stored"}
    assert send(resource.url, iter([b"a ", b"body"])) == 401
    assert resource.seen == [("Bearer stored", b"a body")]
    # But the next request has a token that is good.
    assert send(resource.url) == 200
    assert resource.tokens() == ["stored", "token-0"]


def test_another_host_gets_no_token(send: Send, resource: Resource, provider: Provider) -> None:
    away = Resource()
    try:
        resource.redirect = away.elsewhere
        assert send(resource.url) == 401
        assert resource.tokens() == ["stored"]
        assert away.tokens() == [None]
        assert provider.issued == []
    finally:
        away.close()


def test_a_brand_new_token_is_not_sent_again(send: Send, resource: Resource) -> None:
    resource.refused = {"stored", "token-0"}
    assert send(resource.url) == 401
    assert send(resource.url) == 401
    assert resource.tokens() == ["stored", "token-0", "token-0"]


def test_why_there_is_no_new_token(send: Send, resource: Resource, provider: Provider) -> None:
    resource.refused = {"*"}
    provider.failing = 400, {"error": "invalid_grant"}
    with pytest.raises(credbroker.NeedsLogin):
        send(resource.url)


def test_no_token_no_request(broker: Broker, resource: Resource) -> None:
    broker.start()
    with broker.client() as client, pytest.raises(credbroker.NotFound):
        requests.get(resource.url, auth=RequestsAuth(client.token_source("acme")))
    assert resource.seen == []


def test_the_wrong_kind_of_client_is_told(broker: Broker, provider: Provider, resource: Resource) -> None:
    broker.provided("acme", provider, 3600)
    broker.start()

    async def main() -> None:
        async with broker.aclient() as aclient:
            auth = AsyncBrokerAuth(aclient.token_source("acme"))
            with httpx.Client(auth=auth) as http, pytest.raises(TypeError, match="BrokerAuth"):
                http.get(resource.url)
        with broker.client() as client:
            async with httpx.AsyncClient(auth=HttpxAuth(client.token_source("acme"))) as ahttp:
                with pytest.raises(TypeError, match="AsyncBrokerAuth"):
                    await ahttp.get(resource.url)

    asyncio.run(main())
    assert resource.seen == []


def test_many_refusals_at_once_are_one_refresh(broker: Broker, provider: Provider, resource: Resource) -> None:
    broker.provided("acme", provider, 3600)
    broker.start()
    resource.refused = {"stored"}

    async def main() -> list[int]:
        async with broker.aclient() as client:
            auth = AsyncBrokerAuth(client.token_source("acme"))
            async with httpx.AsyncClient(auth=auth) as http:
                return [answer.status_code for answer in await asyncio.gather(*(http.get(resource.url) for _ in range(30)))]

    assert asyncio.run(main()) == [200] * 30
    assert provider.issued == ["token-0"]

"""Each call of both clients, in the sandbox that the ring makes: github and openai are there, gitlab and anthropic are not
allowed, absent is stored nowhere."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import grpc
import pytest

import credbroker


class Both:
    """One client of the two, called in one way."""

    def __init__(self, kind: type[Any], **arguments: Any) -> None:
        self._kind, self._arguments = kind, arguments

    def __call__(self, method: str, *arguments: Any, **named: Any) -> Any:
        async def call() -> Any:
            client = self._kind(**self._arguments)
            try:
                answer = getattr(client, method)(*arguments, **named)
                return await answer if inspect.isawaitable(answer) else answer
            finally:
                closed = client.close()
                if inspect.isawaitable(closed):
                    await closed

        return asyncio.run(call())

    def refused(self, kind: type[credbroker.CredbrokerError], method: str, *arguments: Any, **named: Any) -> Any:
        with pytest.raises(kind) as caught:
            self(method, *arguments, **named)
        assert caught.type is kind
        return caught.value


KINDS: list[type[Any]] = [credbroker.Client, credbroker.AsyncClient]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def both(kind: type[Any]) -> Both:
    return Both(kind)


def test_token(both: Both) -> None:
    token = both("get_token", "github")
    assert token.access_token == "gho_demo"
    assert (token.token_type, token.scope) == ("bearer", "repo")
    assert token.authorization == "Bearer gho_demo"
    assert 3000 < token.expires_in < 3600
    assert token.expire_time.tzinfo is not None
    assert token.revision
    assert token.usable
    assert both("get_token", "github", "default", min_validity=60).revision == token.revision


def test_token_source(both: Both) -> None:
    async def sync_or_async() -> str:
        if both._kind is credbroker.Client:
            with credbroker.Client() as client:
                source = client.token_source("github")
                assert client.token_source("github", "default") is source
                return source.token().access_token
        async with credbroker.AsyncClient() as client:
            asource = client.token_source("github")
            assert client.token_source("github", "default") is asource
            return (await asource.token()).access_token

    assert asyncio.run(sync_or_async()) == "gho_demo"


def test_api_key(both: Both) -> None:
    assert both("get_api_key", "openai").value == "sk-demo"


def test_lists(both: Both) -> None:
    assert both("list_providers") == ["acme", "github"]
    assert both("list_buckets", "github") == ["default"]
    assert both("list_api_keys") == ["openai"]


def test_stats(both: Both) -> None:
    before = both("bucket_stats", "github")
    both("get_token", "github")
    after = both("bucket_stats", "github")
    assert after.bucket == "default"
    assert after.request_count == before.request_count + 1
    assert 0 < after.percentage <= 100
    assert after.last_used_time.tzinfo is not None


def test_server_info(both: Both) -> None:
    info = both("server_info")
    assert info.version == 1
    assert info.server_version


def test_what_is_not_stored(both: Both) -> None:
    error = both.refused(credbroker.NotFound, "get_token", "absent")
    assert error.reason == "NOT_FOUND"
    assert error.code is grpc.StatusCode.NOT_FOUND
    assert error.metadata == {"provider": "absent", "bucket": "default"}
    assert error.message in str(error)
    assert not error.transient
    assert both.refused(credbroker.NotFound, "get_api_key", "absent").metadata == {"name": "absent"}


def test_what_is_not_allowed(both: Both) -> None:
    for provider in ("gitlab", "nowhere"):
        error = both.refused(credbroker.Unauthorized, "get_token", provider)
        assert error.reason == "UNAUTHORIZED"
        assert "--allow" in error.message
    both.refused(credbroker.Unauthorized, "get_api_key", "anthropic")
    both.refused(credbroker.Unauthorized, "save_token", "github", "gho_mine")
    both.refused(credbroker.Unauthorized, "remove_token", "github")
    both.refused(credbroker.Unauthorized, "login", "acme", show=pytest.fail)


def test_what_is_malformed(both: Both) -> None:
    error = both.refused(credbroker.InvalidRequest, "get_token", "../etc")
    assert (error.reason, error.field) == ("INVALID_REQUEST", "provider")
    assert both.refused(credbroker.InvalidRequest, "get_token", "github", min_validity=-1).field == "min_validity"


def test_an_entry_without_a_refresh_token_needs_a_login(both: Both) -> None:
    token = both("get_token", "github")
    # Its refresh token has no provider here.
    error = both.refused(credbroker.ProviderNotFound, "refresh_token", "github", revision=token.revision)
    assert error.reason == "PROVIDER_NOT_FOUND"


@pytest.mark.parametrize("capability", ["0" * 64, ""])
def test_a_capability_that_is_wrong_or_missing(kind: type[Any], capability: str) -> None:
    import os

    client = Both(kind, socket=os.environ["CREDBROKER_SOCKET"], capability=capability)
    error = client.refused(credbroker.Unauthenticated, "get_token", "github")
    assert error.reason == "UNAUTHENTICATED"
    # One that is explicit is not filled up from the environment.
    assert os.environ["CREDBROKER_CAPABILITY"] not in repr(error)


def test_the_proxy_of_the_environment_is_not_asked(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert both("get_api_key", "openai").value == "sk-demo"


def test_a_missing_variable_is_named(kind: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDBROKER_SOCKET")
    with pytest.raises(credbroker.ConfigurationError, match=r"CREDBROKER_SOCKET is not set.*credbroker run"):
        kind()


def test_a_malformed_capability_is_not_shown(kind: type[Any]) -> None:
    with pytest.raises(credbroker.ConfigurationError) as caught:
        kind("/run/sock", "sesame\n")
    assert "sesame" not in str(caught.value)


def test_nobody_listens(kind: type[Any]) -> None:
    error = Both(kind, socket="/nonexistent/sock").refused(credbroker.Unreachable, "get_token", "github")
    assert "/nonexistent/sock" in error.message
    assert "Ensure that the sandbox was started correctly" in error.message
    assert error.transient
    assert error.reason is None
    with pytest.raises(credbroker.ConfigurationError, match="107"):
        kind("/" + "x" * 107)

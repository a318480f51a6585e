"""A fresh token in every request of httpx. Needs the extra ``credbroker[httpx]``.

    with credbroker.Client() as broker, httpx.Client(auth=BrokerAuth(broker.token_source("github"))) as http:
        http.get("https://api.github.com/user")

A request that is answered with 401 is sent once more with a new token. A body that can be read only once is not; the next
request has the new token. If no new token can be had, the reason is raised (:class:`~credbroker.NeedsLogin`...), unless the
token that was refused is so new that the broker does not renew it yet: then the 401 is the answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator

import httpx

from credbroker._aio_source import AsyncTokenSource
from credbroker._source import TokenSource
from credbroker.errors import RateLimited

__all__ = ["AsyncBrokerAuth", "BrokerAuth"]


class BrokerAuth(httpx.Auth):
    """For ``httpx.Client``."""

    def __init__(self, tokens: TokenSource) -> None:
        self._tokens = tokens

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        token = self._tokens.token()
        request.headers["Authorization"] = token.authorization
        response = yield request
        if _refused(response, token.authorization):
            try:
                another = self._tokens.refresh(token)
            except RateLimited:
                return
            if another.revision != token.revision and _repeatable(request):
                request.headers["Authorization"] = another.authorization
                yield request

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        raise TypeError("an httpx.AsyncClient takes credbroker.httpx.AsyncBrokerAuth")
        yield request


class AsyncBrokerAuth(httpx.Auth):
    """For ``httpx.AsyncClient``."""

    def __init__(self, tokens: AsyncTokenSource) -> None:
        self._tokens = tokens

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        token = await self._tokens.token()
        request.headers["Authorization"] = token.authorization
        response = yield request
        if _refused(response, token.authorization):
            try:
                another = await self._tokens.refresh(token)
            except RateLimited:
                return
            if another.revision != token.revision and _repeatable(request):
                request.headers["Authorization"] = another.authorization
                yield request

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        raise TypeError("an httpx.Client takes credbroker.httpx.BrokerAuth")
        yield request


def _refused(response: httpx.Response, authorization: str) -> bool:
    # After a redirect to another host it was not our token that was refused.
    return response.status_code == 401 and response.request.headers.get("Authorization") == authorization


def _repeatable(request: httpx.Request) -> bool:
    return isinstance(request.stream, httpx.ByteStream)

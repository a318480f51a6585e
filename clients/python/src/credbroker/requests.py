"""A fresh token in every request of requests. Needs the extra ``credbroker[requests]``.

    with credbroker.Client() as broker, requests.Session() as http:
        http.auth = BrokerAuth(broker.token_source("github"))
        http.get("https://api.github.com/user")

A request that is answered with 401 is sent once more with a new token. A body that can be read only once is not; the next
request has the new token. If no new token can be had, the reason is raised (:class:`~credbroker.NeedsLogin`...), unless the
token that was refused is so new that the broker does not renew it yet: then the 401 is the answer.
"""

from __future__ import annotations

from typing import Any

import requests
from requests.auth import AuthBase

from credbroker._source import TokenSource
from credbroker._token import Token
from credbroker.errors import RateLimited

__all__ = ["BrokerAuth"]


class BrokerAuth(AuthBase):
    """For a ``requests.Session`` or a single request."""

    def __init__(self, tokens: TokenSource) -> None:
        self._tokens = tokens

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        token = self._tokens.token()
        request.headers["Authorization"] = token.authorization

        def on_response(response: requests.Response, **options: Any) -> requests.Response:
            return self._again(token, response, options)

        request.register_hook("response", on_response)  # type: ignore[no-untyped-call]
        return request

    def _again(self, token: Token, response: requests.Response, options: dict[str, Any]) -> requests.Response:
        # After a redirect to another host it was not our token that was refused, and the new one is none of its business.
        if response.status_code != 401 or response.request.headers.get("Authorization") != token.authorization:
            return response
        try:
            another = self._tokens.refresh(token)
        except RateLimited:
            return response
        if another.revision == token.revision or not isinstance(response.request.body, str | bytes | None):
            return response
        # The connection can be used again when the answer was read.
        response.content  # noqa: B018
        response.close()
        again = response.request.copy()
        again.headers["Authorization"] = another.authorization
        connection: Any = response.connection
        answer: requests.Response = connection.send(again, **options)
        answer.history.append(response)
        answer.request = again
        return answer

"""Short-lived credentials from a credbroker broker, over its Unix socket.

    with credbroker.Client() as broker:
        tokens = broker.token_source("github")
        tokens.token().access_token

:class:`Client` blocks, :class:`AsyncClient` is for asyncio. :mod:`credbroker.httpx` and :mod:`credbroker.requests` put a
fresh token into every request. The stubs of the protocol are :mod:`credbroker.v1`.
"""

from credbroker._aio import AsyncClient, AsyncTokenStream
from credbroker._aio_source import AsyncTokenSource
from credbroker._client import Client, TokenStream
from credbroker._login import LoginFlow, LoginPrompt
from credbroker._source import TokenSource
from credbroker._token import ApiKey, Token
from credbroker._wire import BucketStats, Revocation, ServerInfo
from credbroker.errors import (
    AccessDenied,
    ClientClosed,
    ConfigurationError,
    CredbrokerError,
    DeadlineExceeded,
    ExchangeFailed,
    InvalidRequest,
    LoginCancelled,
    NeedsLogin,
    NotFound,
    ProviderNotFound,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
    SessionEnded,
    ShuttingDown,
    StoreError,
    Unauthenticated,
    Unauthorized,
    Unimplemented,
    UnknownVersion,
    Unreachable,
)

__all__ = [
    "AccessDenied",
    "ApiKey",
    "AsyncClient",
    "AsyncTokenSource",
    "AsyncTokenStream",
    "BucketStats",
    "Client",
    "ClientClosed",
    "ConfigurationError",
    "CredbrokerError",
    "DeadlineExceeded",
    "ExchangeFailed",
    "InvalidRequest",
    "LoginCancelled",
    "LoginFlow",
    "LoginPrompt",
    "NeedsLogin",
    "NotFound",
    "ProviderNotFound",
    "ProviderRejected",
    "ProviderUnavailable",
    "RateLimited",
    "Revocation",
    "ServerInfo",
    "SessionEnded",
    "ShuttingDown",
    "StoreError",
    "Token",
    "TokenSource",
    "TokenStream",
    "Unauthenticated",
    "Unauthorized",
    "Unimplemented",
    "UnknownVersion",
    "Unreachable",
]

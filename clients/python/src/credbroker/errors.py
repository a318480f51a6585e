"""Why a call failed, and what to do about it.

Every refusal of the broker has a machine-readable reason. Those that a program acts on have a class of their own; any
other, also one that this version does not know, is a :class:`CredbrokerError` with its reason, message and code.
"""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2, status_pb2

__all__ = [
    "AccessDenied",
    "ClientClosed",
    "ConfigurationError",
    "CredbrokerError",
    "DeadlineExceeded",
    "ExchangeFailed",
    "InvalidRequest",
    "LoginCancelled",
    "NeedsLogin",
    "NotFound",
    "ProviderNotFound",
    "ProviderRejected",
    "ProviderUnavailable",
    "RateLimited",
    "SessionEnded",
    "ShuttingDown",
    "StoreError",
    "Unauthenticated",
    "Unauthorized",
    "Unimplemented",
    "UnknownVersion",
    "Unreachable",
]

#: The domain of every ``google.rpc.ErrorInfo`` of the broker.
DOMAIN = "credbroker.dev"


class CredbrokerError(Exception):
    """Why a call failed. The base of every error of this package."""

    #: What went wrong and what to do, for people.
    message: str
    #: The broker's reason, as in its documentation: ``NOT_FOUND``, ``NEEDS_LOGIN``... None if the broker did not say one.
    reason: str | None
    #: The gRPC status. None if the error did not come from a call.
    code: grpc.StatusCode | None
    #: What the refusal is about: ``provider``, ``bucket``, ``name``, ``field``...
    metadata: dict[str, str]
    #: In how many seconds it is worth trying again. None if the broker did not say.
    retry_after: float | None

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        code: grpc.StatusCode | None = None,
        metadata: dict[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.metadata = metadata or {}
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.reason else self.message

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed in a while, without anybody doing something."""
        if self.reason in _BY_REASON:
            return self.reason in _TRANSIENT_REASONS
        return self.code in _TRANSIENT_CODES


class ConfigurationError(CredbrokerError):
    """There is no broker to ask: a variable is missing or malformed."""


class Unreachable(CredbrokerError):
    """Nobody listens at the socket, or the connection broke."""


class ClientClosed(CredbrokerError):
    """The client, or its token source, was closed."""


class NotFound(CredbrokerError):
    """No such entry or API key is stored: log in, or store it on the host."""


class InvalidRequest(CredbrokerError):
    """An argument is missing or malformed; :attr:`field` names it."""

    @property
    def field(self) -> str:
        """The field of the request that is wrong."""
        return self.metadata.get("field", "")


class Unimplemented(CredbrokerError):
    """The broker does not know this call: it is older than this client."""


class RateLimited(CredbrokerError):
    """Too many calls in too short a time, or an entry that was refreshed a moment ago; see ``retry_after``."""


class Unauthenticated(CredbrokerError):
    """The capability is missing or wrong."""


class Unauthorized(CredbrokerError):
    """The host does not allow it; the message names the flag that would."""


class UnknownVersion(CredbrokerError):
    """The broker speaks no version of the protocol that this client does."""


class NeedsLogin(CredbrokerError):
    """The entry cannot be renewed without a login."""


class ProviderNotFound(CredbrokerError):
    """The host has no configuration for the provider."""


class ProviderRejected(CredbrokerError):
    """The provider refused the host's client or request; the broker's log says why."""


class ProviderUnavailable(CredbrokerError):
    """The provider failed or has not answered yet; see ``retry_after``."""


class ShuttingDown(CredbrokerError):
    """The broker is stopping."""


class DeadlineExceeded(CredbrokerError):
    """No answer in time."""


class StoreError(CredbrokerError):
    """The host's store is locked, corrupt or cannot be read; ``reason`` says which."""


class SessionEnded(CredbrokerError):
    """The login is unknown, was not completed in time, or has ended: begin it anew."""


class ExchangeFailed(CredbrokerError):
    """The code was refused, or the account is another one: begin the login anew."""


class AccessDenied(CredbrokerError):
    """The user said no."""


class LoginCancelled(CredbrokerError):
    """The user gave the login up."""


_BY_REASON: dict[str, type[CredbrokerError]] = {
    "NOT_FOUND": NotFound,
    "INVALID_REQUEST": InvalidRequest,
    "MESSAGE_TOO_LARGE": CredbrokerError,
    "UNIMPLEMENTED": Unimplemented,
    "RATE_LIMITED": RateLimited,
    "TOO_MANY_STREAMS": CredbrokerError,
    "TOO_MANY_SESSIONS": CredbrokerError,
    "UNAUTHENTICATED": Unauthenticated,
    "UNAUTHORIZED": Unauthorized,
    "PEER_NOT_ALLOWED": Unauthorized,
    "UNKNOWN_VERSION": UnknownVersion,
    "NEEDS_LOGIN": NeedsLogin,
    "PROVIDER_NOT_FOUND": ProviderNotFound,
    "PROVIDER_REJECTED": ProviderRejected,
    "PROVIDER_UNAVAILABLE": ProviderUnavailable,
    "LOCK_TIMEOUT": CredbrokerError,
    "SHUTTING_DOWN": ShuttingDown,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "SESSION_NOT_FOUND": SessionEnded,
    "SESSION_EXPIRED": SessionEnded,
    "SESSION_ALREADY_USED": SessionEnded,
    "EXCHANGE_FAILED": ExchangeFailed,
    "ACCESS_DENIED": AccessDenied,
    "STORE_LOCKED": StoreError,
    "STORE_CORRUPT": StoreError,
    "STORE_UNAVAILABLE": StoreError,
    "INTERNAL_ERROR": CredbrokerError,
}

#: Without a reason: what the gRPC library itself says of a connection.
_BY_CODE: dict[grpc.StatusCode, type[CredbrokerError]] = {
    grpc.StatusCode.UNAVAILABLE: Unreachable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}

_TRANSIENT_REASONS = frozenset(
    {
        "RATE_LIMITED",
        "TOO_MANY_STREAMS",
        "PROVIDER_UNAVAILABLE",
        "LOCK_TIMEOUT",
        "SHUTTING_DOWN",
        "DEADLINE_EXCEEDED",
        "STORE_UNAVAILABLE",
        "INTERNAL_ERROR",
    }
)

_TRANSIENT_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.CANCELLED,
    }
)


def from_reason(reason: str, message: str) -> CredbrokerError:
    """The error for a reason that an answer carries."""
    return _BY_REASON.get(reason, CredbrokerError)(message, reason=reason or None)


def from_rpc(error: grpc.RpcError) -> CredbrokerError:
    """The error for a call that failed, of the blocking or the asyncio API."""
    # Both kinds have these methods; the type that they share does not.
    code = getattr(error, "code", lambda: None)()
    message = getattr(error, "details", lambda: None)() or "the call failed"
    trailers = getattr(error, "trailing_metadata", lambda: None)() or ()
    reason = retry_after = None
    metadata: dict[str, str] = {}
    for name, value in trailers:
        if name == "grpc-status-details-bin":
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info) and info.domain == DOMAIN:
                    reason, metadata = info.reason, dict(info.metadata)
                elif detail.Unpack(retry):
                    retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    found = _BY_REASON.get(reason) if reason else _BY_CODE.get(code) if code else None
    if found is Unreachable:
        # gRPC's own words say what happened, not what to do.
        message = (
            "the credential broker cannot be reached. Ensure that the sandbox was started correctly and that its broker "
            f"runs ({message})"
        )
    return (found or CredbrokerError)(message, reason=reason, code=code, metadata=metadata, retry_after=retry_after)

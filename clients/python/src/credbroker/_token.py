"""What the broker hands out. Nothing here shows its secret by accident: not in repr(), a log line, JSON or a pickle."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from typing_extensions import Self

    from credbroker.v1 import credential_broker_pb2 as pb


def _clock_id() -> int | None:
    """The clock that nobody sets and that goes on while the machine sleeps. `time.monotonic` may stand still then."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.CLOCK_BOOTTIME
    if sys.platform == "darwin":
        return time.CLOCK_MONOTONIC
    return None


_CLOCK = _clock_id()


def now() -> float:
    """Seconds since some moment, by a clock that no sandbox can have wrong."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


#: The most that is left of a token when it counts as too old to begin something with, in seconds.
MAX_SKEW = 5.0


class Secret:
    """What is not shown, copied to another process, or written down by accident."""

    __slots__ = ()

    def __str__(self) -> str:
        return repr(self)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is not pickled: it holds a secret. Ask the broker in the other process")


class Token(Secret):
    """A short-lived access token. It cannot hold a refresh token, and shows its secret only where it is asked for."""

    __slots__ = ("_deadline", "_skew", "access_token", "expire_time", "extra", "revision", "scope", "token_type")

    #: The secret that goes into an Authorization header.
    access_token: str
    #: The token type of RFC 6749 section 7.1, usually "Bearer".
    token_type: str
    #: Space-separated scopes; empty if the provider did not say.
    scope: str
    #: Opaque; changes with every new access token of the entry.
    revision: str
    #: Further fields of the provider's answer, as the host's configuration names them.
    extra: Mapping[str, str]
    #: When it expires by the host's wall clock, for people. None: it does not expire, or nobody said.
    expire_time: datetime | None

    def __init__(
        self,
        access_token: str,
        *,
        token_type: str = "Bearer",  # noqa: S107
        scope: str = "",
        revision: str = "",
        expires_in: float | None = None,
        expire_time: datetime | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        """`expires_in` counts from now, in seconds; None: the token does not expire."""
        self.access_token = access_token
        self.token_type = token_type
        self.scope = scope
        self.revision = revision
        self.extra = MappingProxyType(dict(extra or {}))
        self.expire_time = expire_time
        self._deadline = None if expires_in is None else now() + expires_in
        self._skew = 0.0 if expires_in is None else min(MAX_SKEW, expires_in / 10)

    @property
    def expires_in(self) -> float | None:
        """The seconds that are left of it, by a clock that no sandbox can have wrong. None: it does not expire."""
        return None if self._deadline is None else max(0.0, self._deadline - now())

    @property
    def expired(self) -> bool:
        """Whether it has expired."""
        return self._deadline is not None and self._deadline <= now()

    @property
    def usable(self) -> bool:
        """Whether enough is left of it to begin something with: more than 5 s, or a tenth of what there was."""
        return self._deadline is None or self._deadline - now() > self._skew

    @property
    def authorization(self) -> str:
        """The value of the Authorization header."""
        # RFC 6750 has "Bearer", and some resource servers insist, whatever the provider calls it.
        kind = "Bearer" if self.token_type.lower() in ("", "bearer") else self.token_type
        return f"{kind} {self.access_token}"

    def outlives(self, other: Token) -> bool:
        """Whether it expires no earlier than the other one."""
        if self._deadline is None or other._deadline is None:
            return self._deadline is None
        return self._deadline >= other._deadline

    def __repr__(self) -> str:
        left = self.expires_in
        expires = "never" if left is None else f"{left:.0f} s"
        return f"<Token [redacted] token_type={self.token_type!r} scope={self.scope!r} expires_in={expires}>"


class ApiKey(Secret):
    """An API key."""

    __slots__ = ("name", "value")

    #: Its name on the host.
    name: str
    #: The secret.
    value: str

    def __init__(self, name: str, value: str) -> None:
        self.name = name
        self.value = value

    def __repr__(self) -> str:
        return f"<ApiKey {self.name!r} [redacted]>"


def from_message(message: pb.AccessToken) -> Token:
    """A token as it was received, now."""
    return Token(
        message.access_token,
        token_type=message.token_type,
        scope=message.scope,
        revision=message.revision,
        expires_in=seconds(message.expires_in.ToTimedelta()) if message.HasField("expires_in") else None,
        expire_time=message.expire_time.ToDatetime(timezone.utc) if message.HasField("expire_time") else None,
        extra=message.extra,
    )


def seconds(length: timedelta) -> float:
    """A length of time in seconds."""
    return length.total_seconds()

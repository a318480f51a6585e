"""What both clients send and how they read the answers: addresses, options, requests."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import Enum
from urllib.parse import quote

from google.protobuf import duration_pb2

from credbroker._token import Secret
from credbroker.errors import ClientClosed, ConfigurationError
from credbroker.v1 import credential_broker_pb2 as pb

#: The version of the protocol that this package speaks.
PROTOCOL_VERSION = 1
#: How long a call may take, in seconds. The broker gives a provider up to 15.
TIMEOUT = 20.0

OPTIONS: list[tuple[str, int]] = [
    # A connection of its own for each client: limits and closing are then its own, too.
    ("grpc.use_local_subchannel_pool", 1),
    # A broker that was restarted is found soon. gRPC waits for up to two minutes otherwise.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


class Revocation(Enum):
    """What became of a token at the provider when its entry was removed."""

    UNKNOWN = 0
    #: The provider has no revocation endpoint, or none is configured.
    NOT_SUPPORTED = 1
    #: The provider confirmed it.
    DONE = 2
    #: The provider refused or could not be reached; the entry is gone from the host all the same.
    FAILED = 3
    #: It goes on in the broker.
    PENDING = 4

    @classmethod
    def _missing_(cls, _value: object) -> Revocation:
        return cls.UNKNOWN


@dataclass(frozen=True)
class ServerInfo:
    """What the broker says of itself."""

    #: The version of the protocol.
    version: int
    #: The broker's own version, for people.
    server_version: str
    #: What it offers beyond the first version of the protocol.
    features: tuple[str, ...]


@dataclass(frozen=True)
class BucketStats:
    """How often this broker delivered an entry's token since it started."""

    bucket: str
    request_count: int
    #: Of all deliveries of the provider that this sandbox may see, 0 to 100.
    percentage: float
    #: The last delivery, by the host's clock. None if there was none.
    last_used_time: datetime | None


class Endpoint(Secret):
    """Where the broker is, and the capability to show. The capability is in no printed form of it."""

    __slots__ = ("metadata", "pid", "socket", "target")

    def __repr__(self) -> str:
        return f"<Endpoint {self.socket!r}>"

    def __init__(self, socket: str | os.PathLike[str] | None, capability: str | None) -> None:
        if socket is None:
            socket = os.environ.get("CREDBROKER_SOCKET")
            if not socket:
                raise ConfigurationError(
                    "CREDBROKER_SOCKET is not set: run the program with `credbroker run --allow PROVIDER -- COMMAND`, "
                    "or name the broker's socket"
                )
            # The capability belongs to the socket: one from the environment is shown to no other.
            if capability is None:
                capability = os.environ.get("CREDBROKER_CAPABILITY")
        self.socket = os.fspath(socket)
        if len(os.fsencode(self.socket)) > 107:
            raise ConfigurationError(f"the path of the socket is longer than 107 bytes: {self.socket}")
        self.target = "unix:" + quote(self.socket)
        self.metadata: tuple[tuple[str, str], ...] = ()
        if capability:
            if not re.fullmatch(r"[!-~]+", capability):
                raise ConfigurationError(
                    "the capability holds characters that no capability has: pass it on as it was set, without a line end"
                )
            self.metadata = (("authorization", "Bearer " + capability),)
        # gRPC's threads do not survive a fork, and a child that uses the parent's connection hangs.
        self.pid = os.getpid()

    def check(self, closed: bool) -> None:
        """Whether a call may be made now."""
        if closed:
            raise ClientClosed("the client is closed")
        if self.pid != os.getpid():
            raise ClientClosed("the client was made in another process: make one after the fork")


def duration(seconds: float | timedelta) -> duration_pb2.Duration:
    """A length of time, given in seconds or as a timedelta."""
    message = duration_pb2.Duration()
    message.FromTimedelta(seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds))
    return message


def get_token(provider: str, bucket: str, min_validity: float | timedelta) -> pb.GetTokenRequest:
    return pb.GetTokenRequest(provider=provider, bucket=bucket, min_validity=duration(min_validity))


def save_token(
    provider: str,
    bucket: str,
    access_token: str,
    expires_in: float | timedelta | None,
    token_type: str,
    scope: str,
) -> pb.SaveTokenRequest:
    token = pb.AccessToken(access_token=access_token, token_type=token_type, scope=scope)
    if expires_in is not None:
        token.expires_in.CopyFrom(duration(expires_in))
    return pb.SaveTokenRequest(provider=provider, bucket=bucket, token=token)


def server_info(answer: pb.GetServerInfoResponse) -> ServerInfo:
    return ServerInfo(answer.version, answer.server_version, tuple(answer.features))


def bucket_stats(answer: pb.GetBucketStatsResponse) -> BucketStats:
    stats = answer.stats
    used = stats.last_used_time.ToDatetime(timezone.utc) if stats.HasField("last_used_time") else None
    return BucketStats(stats.bucket, stats.request_count, stats.percentage, used)

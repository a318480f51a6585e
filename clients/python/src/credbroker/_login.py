"""Logins: what the user is shown, and how a login stands."""

from __future__ import annotations

from datetime import datetime, timezone
from enum import Enum

from credbroker import errors
from credbroker._token import Secret, Token, from_message, seconds
from credbroker.v1 import credential_broker_pb2 as pb

#: How often to ask if the broker does not say, in seconds.
INTERVAL = 5.0
#: How soon a login that came to its end just before it was given up is asked about again.
ALMOST_DONE = 0.2


class LoginFlow(Enum):
    """A way to log in."""

    #: The user opens a page and pastes the code that they are shown there.
    PKCE_REDIRECT = 1
    #: The user opens a page on any device and enters a code (RFC 8628).
    DEVICE_CODE = 2
    #: The user opens a page on the host, whose loopback address gets the answer (RFC 8252).
    BROWSER_REDIRECT = 3


class LoginPrompt(Secret):
    """What to show to the user. URLs and code are for the user only, and not in its printed form."""

    __slots__ = (
        "auth_url",
        "bucket",
        "expire_time",
        "flow",
        "provider",
        "user_code",
        "verification_url",
        "verification_url_complete",
    )

    #: The entry that the login is for.
    provider: str
    bucket: str
    #: The flow that was begun. It may be another than was asked for.
    flow: LoginFlow
    #: PKCE_REDIRECT and BROWSER_REDIRECT: what the user opens; else empty.
    auth_url: str
    #: DEVICE_CODE: what the user opens, and the same with the code in it if the provider has such a URL.
    verification_url: str
    verification_url_complete: str
    #: DEVICE_CODE: what the user enters there.
    user_code: str
    #: When the login ends, by the host's clock.
    expire_time: datetime | None

    def __init__(self, provider: str, bucket: str, begun: pb.InitiateLoginResponse) -> None:
        try:
            self.flow = LoginFlow(begun.flow)
        except ValueError:
            raise errors.Unimplemented(f"the broker began a login of a kind ({begun.flow}) that is not known here") from None
        self.provider = provider
        self.bucket = bucket
        self.auth_url = begun.auth_url
        self.verification_url = begun.verification_url
        self.verification_url_complete = begun.verification_url_complete
        self.user_code = begun.user_code
        self.expire_time = begun.expire_time.ToDatetime(timezone.utc) if begun.HasField("expire_time") else None

    @property
    def url(self) -> str:
        """What to open; with the user's code in it, if the provider has such a URL."""
        return self.auth_url or self.verification_url_complete or self.verification_url

    def __repr__(self) -> str:
        return f"<LoginPrompt {self.provider!r} {self.flow.name}>"


def initiate(provider: str, bucket: str, flow: LoginFlow | None) -> pb.InitiateLoginRequest:
    request = pb.InitiateLoginRequest(provider=provider, bucket=bucket)
    if flow is not None:
        request.flow = pb.LoginFlow.Value(f"LOGIN_FLOW_{flow.name}")
    return request


def interval(answer: pb.InitiateLoginResponse | pb.PollLoginResponse) -> float:
    """When asking again is worth it, in seconds."""
    return seconds(answer.poll_interval.ToTimedelta()) if answer.HasField("poll_interval") else INTERVAL


def token(answer: pb.ExchangeCodeResponse | pb.PollLoginResponse) -> Token | None:
    """The token of a login that is complete. None: this sandbox may not read the entry."""
    return from_message(answer.token) if answer.HasField("token") else None


def pending(answer: pb.PollLoginResponse) -> bool:
    """Whether the user has still to act. Raises what a login that failed has failed with."""
    if answer.status == pb.LOGIN_STATUS_ERROR:
        raise errors.from_reason(answer.error.reason, answer.error.message)
    return answer.status != pb.LOGIN_STATUS_COMPLETE


def used_up(error: errors.CredbrokerError) -> bool:
    """Whether an exchange that failed so has used the session up."""
    return not isinstance(error, errors.InvalidRequest | errors.RateLimited | errors.DeadlineExceeded)


def no_code(prompt: LoginPrompt) -> errors.LoginCancelled:
    return errors.LoginCancelled(f"no code was pasted for the login to {prompt.provider}")

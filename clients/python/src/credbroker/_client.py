"""The blocking client."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from credbroker import _login, _wire
from credbroker._login import LoginFlow, LoginPrompt
from credbroker._source import TokenSource
from credbroker._token import ApiKey, Token, from_message
from credbroker.errors import ClientClosed, CredbrokerError, LoginCancelled, RateLimited, SessionEnded, from_rpc
from credbroker.v1 import credential_broker_pb2 as pb
from credbroker.v1.credential_broker_pb2_grpc import CredentialBrokerStub

if TYPE_CHECKING:
    from typing_extensions import Self

    Stream = grpc._CallIterator[pb.WatchTokenResponse]

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class Client:
    """A connection to the broker, for any number of threads.

    Without arguments the broker is the one that ``credbroker run`` names in ``CREDBROKER_SOCKET``, with the capability
    in ``CREDBROKER_CAPABILITY``. Nothing is sent before the first call. Every call raises a
    :class:`~credbroker.CredbrokerError`; an empty bucket is the entry's bucket ``default``.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        capability: str | None = None,
        *,
        timeout: float = _wire.TIMEOUT,
    ) -> None:
        """`timeout`: how long a call may take, in seconds.

        Raises :class:`~credbroker.ConfigurationError` if there is neither a socket nor the variable.
        """
        self._endpoint = _wire.Endpoint(socket, capability)
        self._timeout = timeout
        self._channel = grpc.insecure_channel(self._endpoint.target, _wire.OPTIONS)
        self._stub: CredentialBrokerStub = CredentialBrokerStub(self._channel)
        self._lock = threading.Lock()
        self._sources: dict[tuple[str, str], TokenSource] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<Client {self._endpoint.socket!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and the client's token sources. Calls under way fail with ClientClosed."""
        with self._lock:
            self._closed = True
            sources = list(self._sources.values())
            self._sources.clear()
        for source in sources:
            source.close()
        self._channel.close()

    def server_info(self) -> _wire.ServerInfo:
        """Agrees on a version. Raises UnknownVersion if the broker does not speak this package's."""
        version = _wire.PROTOCOL_VERSION
        request = pb.GetServerInfoRequest(min_version=version, max_version=version)
        return _wire.server_info(self._call(self._stub.GetServerInfo, request))

    def get_token(self, provider: str, bucket: str = "", *, min_validity: float | timedelta = 0) -> Token:
        """A usable access token, which the broker renews first if need be.

        `min_validity`: how long it shall still be valid, in seconds; the broker caps it at half the token's lifetime.
        """
        request = _wire.get_token(provider, bucket, min_validity)
        return from_message(self._call(self._stub.GetToken, request).token)

    def refresh_token(self, provider: str, bucket: str = "", *, revision: str = "") -> Token:
        """A new access token, for one that was refused where it was used; `revision` is the refused one's.

        If the entry has another one by now, that is the answer, without asking the provider again.
        """
        request = pb.RefreshTokenRequest(provider=provider, bucket=bucket, revision=revision)
        return from_message(self._call(self._stub.RefreshToken, request).token)

    def token_source(self, provider: str, bucket: str = "") -> TokenSource:
        """The entry's token, always fresh, without asking the broker each time. The same source for the same entry."""
        key = (provider, bucket or "default")
        with self._lock:
            self._endpoint.check(self._closed)
            source = self._sources.get(key)
            if source is None:
                source = self._sources[key] = TokenSource(self, *key)
            return source

    def watch_token(self, provider: str, bucket: str = "") -> TokenStream:
        """The entry's token at once, then each new one as soon as the host has it. It ends with the broker or the entry."""
        self._endpoint.check(self._closed)
        request = pb.WatchTokenRequest(provider=provider, bucket=bucket)
        try:
            return TokenStream(self._stub.WatchToken(request, metadata=self._endpoint.metadata))
        except ValueError:
            self._endpoint.check(self._closed)
            raise

    def save_token(
        self,
        provider: str,
        access_token: str,
        bucket: str = "",
        *,
        expires_in: float | timedelta | None = None,
        token_type: str = "Bearer",  # noqa: S107
        scope: str = "",
    ) -> None:
        """Replaces the access token of an entry, if the host allows it. Its refresh token is never touched."""
        request = _wire.save_token(provider, bucket, access_token, expires_in, token_type, scope)
        self._call(self._stub.SaveToken, request)

    def remove_token(self, provider: str, bucket: str = "") -> _wire.Revocation:
        """Removes an entry (logout), if the host allows it, and tells what became of the token at the provider."""
        answer = self._call(self._stub.RemoveToken, pb.RemoveTokenRequest(provider=provider, bucket=bucket))
        return _wire.Revocation(answer.revocation)

    def get_api_key(self, name: str) -> ApiKey:
        """An API key by name."""
        return ApiKey(name, self._call(self._stub.GetApiKey, pb.GetApiKeyRequest(name=name)).api_key)

    def list_providers(self) -> list[str]:
        """The providers of which at least one entry is stored that may be read here."""
        names: list[str] = []
        request = pb.ListProvidersRequest()
        while True:
            page = self._call(self._stub.ListProviders, request)
            names += page.providers
            if not page.next_page_token:
                return names
            request.page_token = page.next_page_token

    def list_buckets(self, provider: str) -> list[str]:
        """The buckets of a provider that may be read here."""
        names: list[str] = []
        request = pb.ListBucketsRequest(provider=provider)
        while True:
            page = self._call(self._stub.ListBuckets, request)
            names += page.buckets
            if not page.next_page_token:
                return names
            request.page_token = page.next_page_token

    def list_api_keys(self) -> list[str]:
        """The names of the API keys that may be read here."""
        names: list[str] = []
        request = pb.ListApiKeysRequest()
        while True:
            page = self._call(self._stub.ListApiKeys, request)
            names += page.names
            if not page.next_page_token:
                return names
            request.page_token = page.next_page_token

    def bucket_stats(self, provider: str, bucket: str = "") -> _wire.BucketStats:
        """How often this broker delivered the entry's token since it started. Asking is not a use."""
        request = pb.GetBucketStatsRequest(provider=provider, bucket=bucket)
        return _wire.bucket_stats(self._call(self._stub.GetBucketStats, request))

    def login(
        self,
        provider: str,
        bucket: str = "",
        *,
        show: Callable[[LoginPrompt], object],
        code: Callable[[LoginPrompt], str | None] | None = None,
        flow: LoginFlow | None = None,
        given_up: threading.Event | None = None,
    ) -> Token | None:
        """Logs the user in to the entry, if the host allows it. None: it is done, but the entry may not be read here.

        `show` shows the user what to open. `code` returns what the user pasted (the code, or the whole URL that they
        ended at), or None to give up; it is asked only with ``LoginFlow.PKCE_REDIRECT``. Without a `flow` the host's
        configuration decides. The login is cancelled when `given_up` is set, and by any exception, Ctrl-C among them.
        """
        session = _Session(self, self._call(self._stub.InitiateLogin, _login.initiate(provider, bucket, flow)))
        try:
            prompt = LoginPrompt(provider, bucket or "default", session.begun)
            show(prompt)
            if prompt.flow is LoginFlow.PKCE_REDIRECT:
                pasted = code(prompt) if code else None
                if pasted is None:
                    raise _login.no_code(prompt)
                return session.exchange(pasted)
            return session.wait(given_up or threading.Event())
        finally:
            if not session.ended:
                # There is no other way to end it, and one that the broker still has ends by itself.
                with contextlib.suppress(CredbrokerError):
                    session.cancel()

    def _call(self, method: grpc.UnaryUnaryMultiCallable[Request, Answer], request: Request) -> Answer:
        self._endpoint.check(self._closed)
        try:
            return method(request, metadata=self._endpoint.metadata, timeout=self._timeout)
        except grpc.RpcError as error:
            raise self._error(error) from None
        except ValueError:
            # What gRPC says of a channel that was closed just now.
            self._endpoint.check(self._closed)
            raise

    def _begin(self, provider: str, bucket: str, refused: str) -> grpc.Future[Any]:
        """Asks for a token, or for another one than the refused, without waiting for the answer."""
        metadata, timeout = self._endpoint.metadata, self._timeout
        if refused:
            request = pb.RefreshTokenRequest(provider=provider, bucket=bucket, revision=refused)
            return self._stub.RefreshToken.future(request, metadata=metadata, timeout=timeout)
        return self._stub.GetToken.future(
            pb.GetTokenRequest(provider=provider, bucket=bucket), metadata=metadata, timeout=timeout
        )

    def _forget(self, source: TokenSource) -> None:
        with self._lock:
            if self._sources.get((source.provider, source.bucket)) is source:
                del self._sources[source.provider, source.bucket]

    def _error(self, error: grpc.RpcError) -> CredbrokerError:
        if self._closed:
            return ClientClosed("the client was closed")
        return from_rpc(error)


class TokenStream:
    """An entry's tokens as they come; iterate over it. :meth:`close` ends it, from any thread."""

    def __init__(self, call: Stream) -> None:
        self._call = call
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Token:
        try:
            return from_message(next(self._call).token)
        except grpc.RpcError as error:
            if self._closed:
                raise StopIteration from None
            raise from_rpc(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the stream."""
        self._closed = True
        self._call.cancel()


class _Session:
    """A login that was begun."""

    def __init__(self, client: Client, begun: pb.InitiateLoginResponse) -> None:
        self._client = client
        self.begun = begun
        self.ended = False

    def exchange(self, pasted: str) -> Token | None:
        request = pb.ExchangeCodeRequest(session_id=self.begun.session_id, code=pasted)
        try:
            answer = self._client._call(self._client._stub.ExchangeCode, request)
        except CredbrokerError as error:
            self.ended = _login.used_up(error)
            raise
        self.ended = True
        return _login.token(answer)

    def wait(self, given_up: threading.Event) -> Token | None:
        request = pb.PollLoginRequest(session_id=self.begun.session_id)
        interval = _login.interval(self.begun)
        while True:
            if given_up.wait(interval):
                try:
                    self.cancel()
                except SessionEnded:
                    # Its result is there, or about to be.
                    time.sleep(interval := _login.ALMOST_DONE)
                else:
                    raise LoginCancelled("the login was given up")
            try:
                answer = self._client._call(self._client._stub.PollLogin, request)
            except RateLimited as error:
                interval = max(interval, error.retry_after or 0)
                continue
            if answer.status != pb.LOGIN_STATUS_PENDING:
                self.ended = True
            if not _login.pending(answer):
                return _login.token(answer)
            interval = _login.interval(answer)

    def cancel(self) -> None:
        request = pb.CancelLoginRequest(session_id=self.begun.session_id)
        self._client._call(self._client._stub.CancelLogin, request)
        self.ended = True

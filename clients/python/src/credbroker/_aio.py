"""The asyncio client. The same calls as the blocking one's, with the same meaning."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio

from credbroker import _login, _wire
from credbroker._aio_source import AsyncTokenSource
from credbroker._login import LoginFlow, LoginPrompt
from credbroker._token import ApiKey, Token, from_message
from credbroker.errors import ClientClosed, CredbrokerError, RateLimited, from_rpc
from credbroker.v1 import credential_broker_pb2 as pb
from credbroker.v1.credential_broker_pb2_grpc import CredentialBrokerStub

if TYPE_CHECKING:
    from typing_extensions import Self

    from credbroker.v1.credential_broker_pb2_grpc import CredentialBrokerAsyncStub

    Stream = grpc.aio.UnaryStreamCall[pb.WatchTokenRequest, pb.WatchTokenResponse]

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class AsyncClient:
    """A connection to the broker, for the tasks of one event loop.

    Without arguments the broker is the one that ``credbroker run`` names in ``CREDBROKER_SOCKET``, with the capability
    in ``CREDBROKER_CAPABILITY``. Nothing is sent before the first call. Every call raises a
    :class:`~credbroker.CredbrokerError`; an empty bucket is the entry's bucket ``default``. Cancel a task to end its call.
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
        # gRPC binds a channel to the loop that runs when it is made, so it is made by the first call.
        self._channel: grpc.aio.Channel | None = None
        self._sources: dict[tuple[str, str], AsyncTokenSource] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<AsyncClient {self._endpoint.socket!r}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connection and the client's token sources. Calls under way fail with ClientClosed."""
        self._closed = True
        for source in list(self._sources.values()):
            await source.close()
        if self._channel is not None:
            await self._channel.close()

    async def server_info(self) -> _wire.ServerInfo:
        """Agrees on a version. Raises UnknownVersion if the broker does not speak this package's."""
        version = _wire.PROTOCOL_VERSION
        request = pb.GetServerInfoRequest(min_version=version, max_version=version)
        return _wire.server_info(await self._call(self._stub().GetServerInfo, request))

    async def get_token(self, provider: str, bucket: str = "", *, min_validity: float | timedelta = 0) -> Token:
        """A usable access token, which the broker renews first if need be.

        `min_validity`: how long it shall still be valid, in seconds; the broker caps it at half the token's lifetime.
        """
        request = _wire.get_token(provider, bucket, min_validity)
        return from_message((await self._call(self._stub().GetToken, request)).token)

    async def refresh_token(self, provider: str, bucket: str = "", *, revision: str = "") -> Token:
        """A new access token, for one that was refused where it was used; `revision` is the refused one's.

        If the entry has another one by now, that is the answer, without asking the provider again.
        """
        request = pb.RefreshTokenRequest(provider=provider, bucket=bucket, revision=revision)
        return from_message((await self._call(self._stub().RefreshToken, request)).token)

    def token_source(self, provider: str, bucket: str = "") -> AsyncTokenSource:
        """The entry's token, always fresh, without asking the broker each time. The same source for the same entry."""
        self._endpoint.check(self._closed)
        key = (provider, bucket or "default")
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = AsyncTokenSource(self, *key)
        return source

    def watch_token(self, provider: str, bucket: str = "") -> AsyncTokenStream:
        """The entry's token at once, then each new one as soon as the host has it. It ends with the broker or the entry."""
        request = pb.WatchTokenRequest(provider=provider, bucket=bucket)
        return AsyncTokenStream(self._stub().WatchToken(request, metadata=self._endpoint.metadata))

    async def save_token(
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
        await self._call(self._stub().SaveToken, request)

    async def remove_token(self, provider: str, bucket: str = "") -> _wire.Revocation:
        """Removes an entry (logout), if the host allows it, and tells what became of the token at the provider."""
        request = pb.RemoveTokenRequest(provider=provider, bucket=bucket)
        return _wire.Revocation((await self._call(self._stub().RemoveToken, request)).revocation)

    async def get_api_key(self, name: str) -> ApiKey:
        """An API key by name."""
        answer = await self._call(self._stub().GetApiKey, pb.GetApiKeyRequest(name=name))
        return ApiKey(name, answer.api_key)

    async def list_providers(self) -> list[str]:
        """The providers of which at least one entry is stored that may be read here."""
        names: list[str] = []
        request = pb.ListProvidersRequest()
        while True:
            page = await self._call(self._stub().ListProviders, request)
            names += page.providers
            if not page.next_page_token:
                return names
            request.page_token = page.next_page_token

    async def list_buckets(self, provider: str) -> list[str]:
        """The buckets of a provider that may be read here."""
        names: list[str] = []
        request = pb.ListBucketsRequest(provider=provider)
        while True:
            page = await self._call(self._stub().ListBuckets, request)
            names += page.buckets
            if not page.next_page_token:
                return names
            request.page_token = page.next_page_token

    async def list_api_keys(self) -> list[str]:
        """The names of the API keys that may be read here."""
        names: list[str] = []
        request = pb.ListApiKeysRequest()
        while True:
            page = await self._call(self._stub().ListApiKeys, request)
            names += page.names
            if not page.next_page_token:
                return names
            request.page_token = page.next_page_token

    async def bucket_stats(self, provider: str, bucket: str = "") -> _wire.BucketStats:
        """How often this broker delivered the entry's token since it started. Asking is not a use."""
        request = pb.GetBucketStatsRequest(provider=provider, bucket=bucket)
        return _wire.bucket_stats(await self._call(self._stub().GetBucketStats, request))

    async def login(
        self,
        provider: str,
        bucket: str = "",
        *,
        show: Callable[[LoginPrompt], Awaitable[object] | object],
        code: Callable[[LoginPrompt], Awaitable[str | None]] | None = None,
        flow: LoginFlow | None = None,
    ) -> Token | None:
        """Logs the user in to the entry, if the host allows it. None: it is done, but the entry may not be read here.

        `show` shows the user what to open. `code` returns what the user pasted (the code, or the whole URL that they
        ended at), or None to give up; it is asked only with ``LoginFlow.PKCE_REDIRECT``. Without a `flow` the host's
        configuration decides. A task that is cancelled, or any other exception, cancels the login, too.
        """
        session = await self._begin_login(_login.initiate(provider, bucket, flow))
        try:
            prompt = LoginPrompt(provider, bucket or "default", session.begun)
            shown = show(prompt)
            if isinstance(shown, Awaitable):
                await shown
            if prompt.flow is LoginFlow.PKCE_REDIRECT:
                pasted = await code(prompt) if code else None
                if pasted is None:
                    raise _login.no_code(prompt)
                return await session.exchange(pasted)
            return await session.wait()
        finally:
            if not session.ended:
                await session.cancel()

    async def _begin_login(self, request: pb.InitiateLoginRequest) -> _Session:
        begin = asyncio.ensure_future(self._call(self._stub().InitiateLogin, request))
        try:
            return _Session(self, await asyncio.shield(begin))
        except asyncio.CancelledError:
            # The broker may have begun it already: what nobody waits for is cancelled when its name is known.
            with contextlib.suppress(CredbrokerError, asyncio.CancelledError):
                await _Session(self, await begin).cancel()
            raise

    def _stub(self) -> CredentialBrokerAsyncStub:
        self._endpoint.check(self._closed)
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._endpoint.target, _wire.OPTIONS)
            self._made = CredentialBrokerStub(self._channel)
        return self._made

    async def _call(self, method: grpc.aio.UnaryUnaryMultiCallable[Request, Answer], request: Request) -> Answer:
        try:
            return await method(request, metadata=self._endpoint.metadata, timeout=self._timeout)
        except grpc.RpcError as error:
            raise self._error(error) from None
        except asyncio.CancelledError:
            # A call that ends with its channel looks like a task that was cancelled. Python 3.10 cannot tell them apart.
            task = asyncio.current_task()
            cancelling = getattr(task, "cancelling", None)
            if self._closed and cancelling is not None and not cancelling():
                raise ClientClosed("the client was closed") from None
            raise

    def _forget(self, source: AsyncTokenSource) -> None:
        if self._sources.get((source.provider, source.bucket)) is source:
            del self._sources[source.provider, source.bucket]

    def _error(self, error: grpc.RpcError) -> CredbrokerError:
        if self._closed:
            return ClientClosed("the client was closed")
        return from_rpc(error)


class AsyncTokenStream:
    """An entry's tokens as they come; iterate over it with ``async for``. :meth:`close` ends it."""

    def __init__(self, call: Stream) -> None:
        self._call = call
        self._messages = call.__aiter__()
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        try:
            return from_message((await self._messages.__anext__()).token)
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        except asyncio.CancelledError:
            if self._closed:
                raise StopAsyncIteration from None
            self.close()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the stream."""
        self._closed = True
        self._call.cancel()


class _Session:
    """A login that was begun."""

    def __init__(self, client: AsyncClient, begun: pb.InitiateLoginResponse) -> None:
        self._client = client
        self.begun = begun
        self.ended = False

    async def exchange(self, pasted: str) -> Token | None:
        request = pb.ExchangeCodeRequest(session_id=self.begun.session_id, code=pasted)
        try:
            answer = await self._client._call(self._client._stub().ExchangeCode, request)
        except CredbrokerError as error:
            self.ended = _login.used_up(error)
            raise
        self.ended = True
        return _login.token(answer)

    async def wait(self) -> Token | None:
        request = pb.PollLoginRequest(session_id=self.begun.session_id)
        interval = _login.interval(self.begun)
        while True:
            await asyncio.sleep(interval)
            try:
                answer = await self._client._call(self._client._stub().PollLogin, request)
            except RateLimited as error:
                interval = max(interval, error.retry_after or 0)
                continue
            if answer.status != pb.LOGIN_STATUS_PENDING:
                self.ended = True
            if not _login.pending(answer):
                return _login.token(answer)
            interval = _login.interval(answer)

    async def cancel(self) -> None:
        """Cancels the login, also if the task is cancelled once more."""
        request = pb.CancelLoginRequest(session_id=self.begun.session_id)
        # There is no other way to end it, and one that the broker still has ends by itself.
        with contextlib.suppress(CredbrokerError):
            await asyncio.shield(self._client._call(self._client._stub().CancelLogin, request))
        self.ended = True

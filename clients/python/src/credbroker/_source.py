"""The blocking token source."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

import grpc

from credbroker._cache import Backoff, Cache
from credbroker._token import Token, from_message
from credbroker.errors import ClientClosed, CredbrokerError, Unimplemented, Unreachable

if TYPE_CHECKING:
    from typing_extensions import Self

    from credbroker._client import Client, TokenStream


class TokenSource:
    """The fresh token of one entry, for any number of threads. Made by :meth:`Client.token_source`.

    From the first :meth:`token` on, a thread in the background follows the entry, so that the newest token is here before
    the one before it ends. While the broker is away, the token is served for as long as it is good, and the broker looked
    for again. What can only be mended by somebody (no such entry, a login is needed) is raised to whoever asks; the next
    one who asks tries anew.
    """

    def __init__(self, client: Client, provider: str, bucket: str) -> None:
        self._client = client
        self.provider = provider
        self.bucket = bucket
        self._lock = threading.Lock()
        self._cache = Cache()
        self._flights: dict[str, _Flight] = {}
        self._thread: threading.Thread | None = None
        self._stream: TokenStream | None = None
        self._unfollowable = False
        self._closed = threading.Event()

    def __repr__(self) -> str:
        return f"<TokenSource {self.provider}/{self.bucket}>"

    def token(self) -> Token:
        """A usable token. It is here already, or else the broker is asked once for all who wait."""
        self._client._endpoint.check(self._closed.is_set())
        token = self._cache.usable() or self._ask("")
        if self._thread is None:
            self._follow()
        return token

    def refresh(self, refused: Token) -> Token:
        """Another token than the one that was refused where it was used. Those who ask at once share one refresh.

        It is the same again if that one is so new that the broker does not renew it yet.
        """
        self._client._endpoint.check(self._closed.is_set())
        held = self._cache.usable()
        if held is not None and held.revision != refused.revision:
            return held
        return self._ask(refused.revision)

    def close(self) -> None:
        """Stops following the entry. It cannot be used any more; :meth:`Client.token_source` gives another one."""
        self._closed.set()
        with self._lock:
            stream, thread = self._stream, self._thread
        if stream is not None:
            stream.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._cache.clear()
        self._client._forget(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, refused: str) -> Token:
        """Asks for a token, or for another one than the refused."""
        with self._lock:
            flight = self._flights.get(refused)
            first = flight is None
            if flight is None:
                flight = self._flights[refused] = _Flight()
        if first:
            self._start(flight, refused)
        flight.landed.wait()
        if flight.token is None:
            raise copy.copy(flight.error)
        return flight.token

    def _start(self, flight: _Flight, refused: str) -> None:
        # The call is nobody's own: whoever waits for it may be interrupted, and the others still get its answer.
        def land(call: grpc.Future[Any]) -> None:
            try:
                flight.token = from_message(call.result().token)
                with self._lock:
                    self._cache.land(flight.token, refused)
            except grpc.RpcError as error:
                flight.error = self._client._error(error)
            except grpc.FutureCancelledError:
                flight.error = ClientClosed("the client was closed")
            finally:
                self._landed(flight, refused)

        try:
            self._client._begin(self.provider, self.bucket, refused).add_done_callback(land)
        except BaseException as error:
            self._landed(flight, refused)
            if isinstance(error, ValueError):
                # What gRPC says of a channel that was closed just now.
                self._client._endpoint.check(self._client._closed)
            raise

    def _landed(self, flight: _Flight, refused: str) -> None:
        with self._lock:
            self._flights.pop(refused, None)
        flight.landed.set()

    def _follow(self) -> None:
        with self._lock:
            if self._thread is None and not self._unfollowable and not self._closed.is_set():
                name = f"credbroker {self.provider}/{self.bucket}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    def _run(self) -> None:
        """Follows the entry, until that is over for good."""
        backoff = Backoff()
        try:
            while not self._closed.is_set():
                try:
                    self._read(backoff)
                    error: CredbrokerError = Unreachable("the stream ended")
                except CredbrokerError as ended:
                    error = ended
                if not error.transient:
                    break
                self._closed.wait(backoff.next(error.retry_after))
            else:
                return
            with self._lock:
                if isinstance(error, Unimplemented):
                    # An older broker: the token is asked for when it ends.
                    self._unfollowable = True
                else:
                    self._cache.clear()
        finally:
            with self._lock:
                self._thread = None

    def _read(self, backoff: Backoff) -> None:
        stream = self._client.watch_token(self.provider, self.bucket)
        with self._lock:
            self._stream = stream
            if self._closed.is_set():
                stream.close()
        for token in stream:
            backoff.reset()
            with self._lock:
                self._cache.follow(token)


class _Flight:
    """One question, and all who wait for its answer."""

    __slots__ = ("error", "landed", "token")

    def __init__(self) -> None:
        self.landed = threading.Event()
        self.token: Token | None = None
        self.error = CredbrokerError("the call could not be begun")

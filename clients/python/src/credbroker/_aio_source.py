"""The asyncio token source."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING

from credbroker._cache import Backoff, Cache
from credbroker._token import Token
from credbroker.errors import ClientClosed, CredbrokerError, Unimplemented, Unreachable

if TYPE_CHECKING:
    from typing_extensions import Self

    from credbroker._aio import AsyncClient


class AsyncTokenSource:
    """The fresh token of one entry, for the tasks of one event loop. Made by :meth:`AsyncClient.token_source`.

    From the first :meth:`token` on, a task in the background follows the entry, so that the newest token is here before
    the one before it ends. While the broker is away, the token is served for as long as it is good, and the broker looked
    for again. What can only be mended by somebody (no such entry, a login is needed) is raised to whoever asks; the next
    one who asks tries anew.
    """

    def __init__(self, client: AsyncClient, provider: str, bucket: str) -> None:
        self._client = client
        self.provider = provider
        self.bucket = bucket
        self._cache = Cache()
        self._flights: dict[str, asyncio.Task[Token | CredbrokerError]] = {}
        self._follower: asyncio.Task[None] | None = None
        self._unfollowable = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<AsyncTokenSource {self.provider}/{self.bucket}>"

    async def token(self) -> Token:
        """A usable token. It is here already, or else the broker is asked once for all who wait."""
        self._client._endpoint.check(self._closed)
        token = self._cache.usable() or await self._ask("")
        if self._follower is None and not self._unfollowable and not self._closed:
            self._follower = asyncio.create_task(self._run(), name=f"credbroker {self.provider}/{self.bucket}")
        return token

    async def refresh(self, refused: Token) -> Token:
        """Another token than the one that was refused where it was used. Those who ask at once share one refresh.

        It is the same again if that one is so new that the broker does not renew it yet.
        """
        self._client._endpoint.check(self._closed)
        held = self._cache.usable()
        if held is not None and held.revision != refused.revision:
            return held
        return await self._ask(refused.revision)

    async def close(self) -> None:
        """Stops following the entry. It cannot be used any more; :meth:`AsyncClient.token_source` gives another one."""
        self._closed = True
        tasks = [*self._flights.values()]
        if self._follower is not None:
            tasks.append(self._follower)  # type: ignore[arg-type]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._cache.clear()
        self._client._forget(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _ask(self, refused: str) -> Token:
        """Asks for a token, or for another one than the refused."""
        flight = self._flights.get(refused)
        if flight is None:
            # A task of its own: who waits for it may be cancelled, and the others still get its answer.
            flight = self._flights[refused] = asyncio.create_task(self._fetch(refused))
            flight.add_done_callback(lambda _: self._flights.pop(refused, None))
        outcome = await asyncio.shield(flight)
        if isinstance(outcome, CredbrokerError):
            raise copy.copy(outcome)
        return outcome

    async def _fetch(self, refused: str) -> Token | CredbrokerError:
        entry = self.provider, self.bucket
        try:
            if refused:
                token = await self._client.refresh_token(*entry, revision=refused)
            else:
                token = await self._client.get_token(*entry)
        except CredbrokerError as error:
            return error
        except asyncio.CancelledError:
            # Nobody but close() cancels it, and those who wait were not cancelled.
            return ClientClosed("the token source was closed")
        self._cache.land(token, refused)
        return token

    async def _run(self) -> None:
        """Follows the entry, until that is over for good."""
        backoff = Backoff()
        while True:
            try:
                async with self._client.watch_token(self.provider, self.bucket) as stream:
                    async for token in stream:
                        backoff.reset()
                        self._cache.follow(token)
                error: CredbrokerError = Unreachable("the stream ended")
            except CredbrokerError as ended:
                error = ended
            if not error.transient:
                break
            await asyncio.sleep(backoff.next(error.retry_after))
        self._follower = None
        if isinstance(error, Unimplemented):
            # An older broker: the token is asked for when it ends.
            self._unfollowable = True
        else:
            self._cache.clear()

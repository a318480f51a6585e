"""What both token sources share: the newest token, and when to ask again."""

from __future__ import annotations

import random

from credbroker._token import Token


class Cache:
    """The newest token of an entry."""

    __slots__ = ("_refused", "_token")

    def __init__(self) -> None:
        self._token: Token | None = None
        self._refused = ""

    def usable(self) -> Token | None:
        """The token, if one can begin something with it."""
        token = self._token
        return token if token is not None and token.usable else None

    def follow(self, token: Token) -> None:
        """Takes what the broker pushed: it replaces every token that came before.

        A message that was on its way when its token was refused and replaced brings that one back no more.
        """
        if not token.revision or token.revision != self._refused:
            self._token = token

    def land(self, token: Token, refused: str) -> None:
        """Takes the answer to a question, unless what was pushed meanwhile is newer. `refused` is not good any more."""
        if token.revision != refused:
            self._refused = refused
        held = self.usable()
        if held is None or held.revision == refused or token.outlives(held):
            self._token = token

    def clear(self) -> None:
        """Forgets the token."""
        self._token = None


class Backoff:
    """How long to wait before the broker is asked again: from 0.1 s to 5 s, with jitter."""

    __slots__ = ("_ceiling",)

    FIRST = 0.1
    MOST = 5.0

    def __init__(self) -> None:
        self._ceiling = self.FIRST

    def reset(self) -> None:
        """After a success."""
        self._ceiling = self.FIRST

    def next(self, at_least: float | None) -> float:
        """The seconds to wait, but no less than the broker said."""
        delay = random.uniform(self._ceiling / 2, self._ceiling)  # noqa: S311
        self._ceiling = min(self._ceiling * 2, self.MOST)
        return max(delay, at_least or 0.0)

"""All ways of telling who calls, one after another; what they said is kept for a while, and guessing is slow."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sidecar.auth.caller import Caller, Credential, Method
from sidecar.auth.limits import Buckets
from sidecar.errors import TooMany, Unavailable

_MOST = 10_000


class _Kept(NamedTuple):
    caller: Caller
    until: float


class Authenticator:
    """Tells who has a credential.

    Args:
        methods: asked in this order; the first that knows the credential counts.
        guesses: how often an address may show a credential that is nobody's.
        now: Unix time.
    """

    def __init__(self, methods: Sequence[Method], guesses: Buckets, now: Callable[[], float] = time.time) -> None:
        self.methods = methods
        self._guesses = guesses
        self._now = now
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Caller | None]] = {}

    def forget(self) -> None:
        """Ask anew from now on: a token may have been revoked."""
        self._kept.clear()
        self._asking.clear()  # what is being asked was asked of the old ones

    async def caller(self, credential: Credential, address: str) -> Caller | None:
        """Return who has a credential; None when nobody has.

        Args:
            credential: what was shown.
            address: where from.

        Raises:
            TooMany: this address has shown too many that are nobody's.
            Unavailable: who would know cannot be asked just now.
        """
        digest = credential.digest()
        kept = self._kept.get(digest)
        if kept is not None and kept.until > self._now():
            return kept.caller
        # Before it is looked at, and given back when it was good: who guesses must not learn that a guess was right.
        wait = self._guesses.take(address)
        if wait:
            raise TooMany("Too many credentials that are nobody's came from this address.", retry_after=int(wait) + 1)
        try:
            found = await asyncio.shield(self._ask(digest, credential))
        except Unavailable:
            self._guesses.give_back(address)
            raise
        if found is not None:
            self._guesses.give_back(address)
        return found

    def _ask(self, digest: bytes, credential: Credential) -> asyncio.Task[Caller | None]:
        """Ask once for all who show the same at the same time."""
        task = self._asking.get(digest)
        if task is None:
            task = self._asking[digest] = asyncio.create_task(self._identify(digest, credential))
            task.add_done_callback(lambda done: self._asked(digest, done))
        return task

    def _asked(self, digest: bytes, task: asyncio.Task[Caller | None]) -> None:
        if self._asking.get(digest) is task:
            del self._asking[digest]
        if not task.cancelled():
            task.exception()  # who asked has been told, if they are still there

    async def _identify(self, digest: bytes, credential: Credential) -> Caller | None:
        task = asyncio.current_task()
        unavailable: Unavailable | None = None
        for method in self.methods:
            if credential.kind not in method.kinds:
                continue
            try:
                caller = await method.identify(credential)
            except Unavailable as exc:
                unavailable = exc  # another method may know the credential all the same
                continue
            if caller is not None:
                if self._asking.get(digest) is task:
                    self._keep(digest, caller, method.keeps)
                return caller
        if unavailable:
            raise unavailable
        return None

    def _keep(self, digest: bytes, caller: Caller, seconds: float) -> None:
        until = self._now() + seconds
        if caller.expires is not None:
            until = min(until, caller.expires)
        self._kept[digest] = _Kept(caller, until)
        self._kept.move_to_end(digest)
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)

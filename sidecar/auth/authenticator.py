"""All ways of telling who calls, one after another; what they said is kept for a while, and guessing is slow.

Of passwords nothing is kept: whoever guesses could try them against what is kept, and pay nothing for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sidecar.auth.caller import Caller, Credential, Method
from sidecar.auth.limits import Buckets, place
from sidecar.errors import TooMany, Unavailable

_MOST = 10_000


class _Kept(NamedTuple):
    caller: Caller
    until: float
    """On the monotonic clock: when the time is set back, nothing is kept for longer."""


class Authenticator:
    """Tells who has a credential.

    Args:
        methods: asked in this order; the first that knows the credential counts.
        guesses: how often an address may show a credential that is nobody's.
        now: Unix time.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        guesses: Buckets,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.methods = methods
        self._guesses = guesses
        self._now = now
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Caller | None]] = {}

    def forget(self) -> None:
        """Ask anew from now on: a token may have been revoked."""
        self._kept.clear()
        self._asking.clear()  # what is being asked was asked of the old ones

    async def caller(self, credential: Credential, address: str | None) -> Caller | None:
        """Return who has a credential; None when nobody has.

        Args:
            credential: what was shown.
            address: where from; None when it was let in before and is only looked at again, which is no guess.

        Raises:
            TooMany: this address has shown too many that are nobody's.
            Unavailable: who would know cannot be asked just now.
        """
        digest = credential.digest()
        kept = self._kept.get(digest)
        if kept is not None and kept.until > self._clock() and not self._expired(kept.caller):
            return kept.caller
        if asking := self._asking.get(digest):  # whoever shows the same at the same time has paid for it
            return await asyncio.shield(asking)
        # Before it is looked at, and given back when it was good: who guesses must not learn that a guess was right.
        # What was good a while ago is no guess: others who guess from behind the same ingress must not lock it out.
        guess = place(address) if address is not None and digest not in self._good else None
        if guess is not None and (wait := self._guesses.take(guess)):
            raise TooMany("Too many credentials that are nobody's came from this address.", retry_after=int(wait) + 1)
        try:
            found = await asyncio.shield(self._ask(digest, credential))
        except Unavailable:
            self._give_back(guess)
            raise
        if found is None:
            self._good.pop(digest, None)
        else:
            self._give_back(guess)
            if credential.kind == "bearer":  # of a password everybody may guess the next one in no time
                self._good[digest] = None
                self._good.move_to_end(digest)
                if len(self._good) > _MOST:
                    self._good.popitem(last=False)
        return found

    def _expired(self, caller: Caller) -> bool:
        return caller.expires is not None and caller.expires <= self._now()

    def _give_back(self, guess: str | None) -> None:
        if guess is not None:
            self._guesses.give_back(guess)

    def _ask(self, digest: bytes, credential: Credential) -> asyncio.Task[Caller | None]:
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
                if self._asking.get(digest) is task and credential.kind == "bearer":
                    self._keep(digest, caller, method.keeps)
                return caller
        if unavailable:
            raise unavailable
        return None

    def _keep(self, digest: bytes, caller: Caller, seconds: float) -> None:
        self._kept[digest] = _Kept(caller, self._clock() + seconds)
        self._kept.move_to_end(digest)
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)

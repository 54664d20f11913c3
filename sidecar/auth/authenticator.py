"""All ways of telling who calls, one after another; what they said is kept for a while, and guessing is slow.

Of passwords nothing is kept: whoever guesses could try them against what is kept, and pay nothing for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sidecar.auth.caller import Caller, Credential, Method
from sidecar.auth.fair_queue import FairQueue, QueueTimeout
from sidecar.auth.tokens import PREFIX, TokenFile
from sidecar.domain.errors import TooManyRequests, Unavailable
from sidecar.runtime.rate_limiter import RateLimiter, client_key

_MOST = 10_000


class _Kept(NamedTuple):
    caller: Caller
    until: float
    """On the monotonic clock: when the time is set back, nothing is kept for longer."""


class Authenticator:
    """Tells who has a credential.

    Args:
        methods: asked in this order; the first that knows the credential counts.
        guesses: how many unknown credentials an address may send.
        now: Unix time.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        guesses: RateLimiter,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.methods = methods
        self._queues = {method.name: FairQueue(method.max_concurrent) for method in methods if method.max_concurrent}
        self._guesses = guesses
        self._now = now
        self._clock = clock
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Caller | None]] = {}

    def clear_cache(self) -> None:
        """Ask anew from now on: a token may have been revoked."""
        self._kept.clear()
        self._asking.clear()  # what is being asked was asked of the old ones

    async def authenticate(self, credential: Credential, address: str) -> Caller | None:
        """Return who has a credential; None when nobody has.

        Args:
            credential: what was shown.
            address: where from.

        Raises:
            TooMany: this address has sent too many unknown credentials.
            Unavailable: who would know cannot be asked just now.
        """
        digest = credential.digest()
        if kept := self._still_known(digest):
            return kept
        if asking := self._asking.get(digest):  # whoever shows the same at the same time has paid for it
            return await asyncio.shield(asking)
        # Before it is looked at, and given back when it was good: who guesses must not learn that a guess was right.
        # What was good a while ago is no guess: others who guess from behind the same ingress must not lock it out.
        guess = None if digest in self._good else client_key(address)
        if guess is not None and (wait := self._guesses.acquire(guess)):
            raise TooManyRequests("Too many failed logins from this address.", retry_after=int(wait) + 1)
        try:
            found = await asyncio.shield(self._ask(digest, credential, self.methods, guess))
        except QueueTimeout:  # not given back: addresses that send more than can be checked would never be told to stop
            raise
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

    async def reauthenticate(self, credential: Credential, method: str) -> Caller | None:
        """Return the caller of a credential that was accepted before; None if it is no longer valid. It is not a guess.

        Only the method that has let it in is asked: where it says no, it does not matter that another one cannot say.

        Args:
            credential: what was shown.
            method: the name of the method.

        Raises:
            Unavailable: it cannot be asked just now.
        """
        digest = credential.digest()
        if (kept := self._still_known(digest)) and kept.method == method:
            return kept
        methods = [each for each in self.methods if each.name == method]
        key = digest + method.encode()
        found = await asyncio.shield(self._asking.get(key) or self._ask(key, credential, methods, None))
        if found is None:
            self._good.pop(digest, None)
        return found

    def _still_known(self, digest: bytes) -> Caller | None:
        """Return what was said of a credential a short while ago."""
        kept = self._kept.get(digest)
        if kept is None or kept.until <= self._clock():
            return None
        expires = kept.caller.expires
        return None if expires is not None and expires <= self._now() else kept.caller

    def _give_back(self, guess: str | None) -> None:
        if guess is not None:
            self._guesses.refund(guess)

    def _ask(
        self, key: bytes, credential: Credential, methods: Sequence[Method], stranger: str | None
    ) -> asyncio.Task[Caller | None]:
        task = self._asking[key] = asyncio.create_task(self._identify(key, credential, methods, stranger))
        task.add_done_callback(lambda done: self._asked(key, done))
        return task

    def _asked(self, key: bytes, task: asyncio.Task[Caller | None]) -> None:
        if self._asking.get(key) is task:
            del self._asking[key]
        if not task.cancelled():
            task.exception()  # who asked has been told, if they are still there

    async def _identify(
        self, key: bytes, credential: Credential, methods: Sequence[Method], stranger: str | None
    ) -> Caller | None:
        task = asyncio.current_task()
        unavailable: Unavailable | None = None
        if credential.kind == "bearer" and credential.secret.startswith(PREFIX):
            # Made by this program: no remote server knows it, and none gets to see it, also when it was revoked.
            methods = [method for method in methods if method.name == TokenFile.name] or methods
        for method in methods:
            if credential.kind not in method.kinds:
                continue
            try:
                async with (
                    self._queues[method.name].slot(stranger) if method.max_concurrent else contextlib.nullcontext()
                ):
                    caller = await method.identify(credential)
            except Unavailable as exc:
                unavailable = exc  # another method may know the credential all the same
                continue
            if caller is not None:
                if self._asking.get(key) is task and credential.kind == "bearer":
                    self._keep(credential.digest(), caller, method.cache_ttl)
                return caller
        if unavailable:
            raise unavailable
        return None

    def _keep(self, digest: bytes, caller: Caller, seconds: float) -> None:
        self._kept[digest] = _Kept(caller, self._clock() + seconds)
        self._kept.move_to_end(digest)
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)

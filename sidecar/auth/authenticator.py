"""Authenticate credentials: try the configured methods in order, cache their results and limit failed attempts.

A cached password still counts as an attempt until it is found to be right: otherwise guesses that hit the cache would
not be rate-limited.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sidecar.auth.caller import Caller, Credential, Method
from sidecar.auth.caller_file import TOKEN_PREFIX
from sidecar.auth.fair_queue import FairQueue, QueueTimeout
from sidecar.auth.tokens import TokenFile
from sidecar.domain.errors import TooManyRequests, Unavailable
from sidecar.runtime.rate_limiter import RateLimiter, client_key

_MOST = 10_000


class _Kept(NamedTuple):
    caller: Caller
    until: float
    """Monotonic time: setting the wall clock back does not extend the lifetime of a cache entry."""


class Authenticator:
    """Find the caller of a credential.

    Args:
        methods: tried in this order; the first that accepts the credential is used.
        guesses: limits the failed attempts of a client address.
        now: returns the Unix time, for the expiry of credentials.
        clock: returns the monotonic time in seconds, for the cache.
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
        """Clear the cache: a token may have been revoked."""
        self._kept.clear()
        self._asking.clear()  # lookups in progress may have used the previous tokens

    async def authenticate(self, credential: Credential, address: str) -> Caller | None:
        """Return the caller of a credential; None if no method accepts it.

        Args:
            credential: from the request.
            address: of the client.

        Raises:
            TooManyRequests: too many failed attempts from this address.
            Unavailable: no method has accepted the credential, and a method's backend is unavailable.
        """
        digest = credential.digest()
        kept = self._still_known(digest)
        if kept and credential.kind == "bearer":
            return kept
        if asking := self._asking.get(digest):  # the first request with it has taken the token of the rate limit
            return await asyncio.shield(asking)
        # Taken before the check and refunded on success: a client over the limit must not learn that a guess is right.
        # A credential that was valid recently is exempt: guesses from behind the same ingress must not lock it out.
        guess = None if digest in self._good else client_key(address)
        if guess is not None and (wait := self._guesses.acquire(guess)):
            raise TooManyRequests("Too many failed logins from this address.", retry_after=int(wait) + 1)
        if kept:
            self._give_back(guess)
            return kept
        try:
            found = await asyncio.shield(self._ask(digest, credential, self.methods, guess))
        except QueueTimeout:  # no refund: else a client that sends more than can be checked would never be limited
            raise
        except Unavailable:
            self._give_back(guess)
            raise
        if found is None:
            self._good.pop(digest, None)
        else:
            self._give_back(guess)
            if credential.kind == "bearer":  # exempting a password would allow guesses without a limit
                self._trust(digest)
        return found

    def trust_issued(self, token: Credential) -> None:
        """Exempt a token that this server has just issued from the limit of failed attempts."""
        self._trust(token.digest())

    def _trust(self, digest: bytes) -> None:
        self._good[digest] = None
        self._good.move_to_end(digest)
        if len(self._good) > _MOST:
            self._good.popitem(last=False)

    async def reauthenticate(self, credential: Credential, method: str) -> Caller | None:
        """Return the caller of a credential that was accepted before; None if it is no longer valid.

        Only the method that accepted it is used, so another method's outage cannot hide a rejection. The rate limit of
        failed attempts does not apply.

        Args:
            credential: from the request.
            method: name of the method that accepted it.

        Raises:
            Unavailable: the method's backend is unavailable.
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
        """Return the cached caller of a credential; None if there is none or it has expired."""
        kept = self._kept.get(digest)
        if kept is None or kept.until <= self._clock():
            return None
        expires = kept.caller.expires
        return None if expires is not None and expires <= self._now() else kept.caller

    def _give_back(self, guess: str | None) -> None:
        if guess is not None:
            self._guesses.refund(guess)

    def _ask(
        self, key: bytes, credential: Credential, methods: Sequence[Method], client: str | None
    ) -> asyncio.Task[Caller | None]:
        task = self._asking[key] = asyncio.create_task(self._identify(key, credential, methods, client))
        task.add_done_callback(lambda done: self._asked(key, done))
        return task

    def _asked(self, key: bytes, task: asyncio.Task[Caller | None]) -> None:
        if self._asking.get(key) is task:
            del self._asking[key]
        if not task.cancelled():
            task.exception()  # mark it as retrieved: the waiting requests may have disconnected

    async def _identify(
        self, key: bytes, credential: Credential, methods: Sequence[Method], client: str | None
    ) -> Caller | None:
        task = asyncio.current_task()
        unavailable: Unavailable | None = None
        if credential.kind == "bearer" and credential.secret.startswith(TOKEN_PREFIX):
            # Made by this program: never send it to a remote server, also after it was revoked.
            methods = [method for method in methods if method.name == TokenFile.name] or methods
        for method in methods:
            if credential.kind not in method.kinds:
                continue
            try:
                async with (
                    self._queues[method.name].slot(client) if method.max_concurrent else contextlib.nullcontext()
                ):
                    caller = await method.identify(credential)
            except Unavailable as exc:
                unavailable = exc  # another method may accept the credential
                continue
            if caller is not None:
                if self._asking.get(key) is task:
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

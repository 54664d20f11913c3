"""Memory budgets: limited in total and for each caller; a larger reservation is allowed while it is alone."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.domain.errors import Overloaded, TooManyRequests
from sidecar.runtime.budget import Budget


def test_a_caller_may_use_a_quarter() -> None:
    budget = Budget(100, "answers", "--max-in-flight")
    held = budget.reserve("alice", 20)
    with pytest.raises(TooManyRequests, match="--max-in-flight"):
        budget.reserve("alice", 6)
    with budget.reserve("bob", 25):
        held.grow(5)
        assert budget.used == 50
    held.close()
    assert budget.used == 0


def test_the_total_is_limited() -> None:
    budget = Budget(100, "answers", "--max-in-flight")
    reservations = [budget.reserve(name, 25) for name in "abcd"]
    with pytest.raises(Overloaded, match="--max-in-flight") as raised:
        budget.reserve("e", 1)
    assert raised.value.headers["Retry-After"]
    reservations[0].close()
    with budget.reserve("e", 1):
        pass


def test_no_share_for_an_empty_name() -> None:
    budget = Budget(100, "answers", "--max-in-flight")
    with budget.reserve("", 60), budget.reserve("", 40), pytest.raises(Overloaded):
        budget.reserve("", 1)


def test_a_larger_reservation_is_allowed_alone() -> None:
    budget = Budget(100, "answers", "--max-in-flight")
    with budget.reserve("alice", 1000), pytest.raises(Overloaded):
        budget.reserve("bob", 1)
    with budget.reserve("alice", 30), pytest.raises(TooManyRequests):  # more than a quarter
        budget.reserve("alice", 1)


def test_all_bytes_are_released() -> None:
    budget = Budget(100, "answers", "--max-in-flight")

    def fail() -> None:
        with budget.reserve("alice", 10) as held:
            held.grow(5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert budget.used == 0


def test_a_reservation_does_not_limit_itself() -> None:
    """A reservation that grows beyond the limit in steps is allowed while it is alone."""
    budget = Budget(100, "bodies", "--max-in-flight")
    with budget.reserve("alice") as held:
        for size in range(0, 1000, 10):
            held.resize(size)
        with pytest.raises(Overloaded):
            budget.reserve("bob", 1)
        held.resize(20)
        with budget.reserve("alice") as other:
            other.resize(5)
            with pytest.raises(TooManyRequests):
                other.resize(6)
            assert budget.used == 25
    assert budget.used == 0


def test_allocated_bytes_are_counted() -> None:
    budget = Budget(100, "answers", "--max-in-flight")
    with budget.reserve("alice") as held, budget.reserve("bob", 20) as other:
        held.force(90)
        assert (held.exceeded, other.exceeded, budget.used) == (True, True, 110)
        held.force(20)
        assert (held.exceeded, other.exceeded, budget.used) == (False, False, 40)


async def test_waiters_get_released_bytes() -> None:
    budget = Budget(100, "bodies", "--max-in-flight")
    order = []

    async def take(name: str, size: int) -> None:
        with budget.reserve(name) as held:
            await held.wait(size)
            held.grow(size)
            order.append(name)
            assert budget.used <= 100
            await asyncio.sleep(0)

    with budget.reserve("all", 25), budget.reserve("", 60):
        waiting = [asyncio.create_task(take(name, 20)) for name in "abcde"]
        await take("f", 15)
        assert order == ["f"]
    await asyncio.gather(*waiting)
    assert sorted(order) == ["a", "b", "c", "d", "e", "f"]
    assert budget.used == 0

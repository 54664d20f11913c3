"""Bytes that are held for callers: bounded in all, and for each; what is larger than the bound is let through alone."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.domain.errors import Overloaded, TooManyRequests
from sidecar.runtime.budget import Budget


def test_a_caller_has_a_quarter() -> None:
    budget = Budget(100, "answers", "--max-in-flight")
    held = budget.hold("alice", 20)
    with pytest.raises(TooManyRequests, match="--max-in-flight"):
        budget.hold("alice", 6)
    with budget.hold("bob", 25):
        held.grow(5)
        assert budget.taken == 50
    held.close()
    assert budget.taken == 0


def test_all_have_so_much() -> None:
    budget = Budget(100, "answers", "--max-in-flight")
    holdings = [budget.hold(name, 25) for name in "abcd"]
    with pytest.raises(Overloaded, match="--max-in-flight") as raised:
        budget.hold("e", 1)
    assert raised.value.headers["Retry-After"]
    holdings[0].close()
    with budget.hold("e", 1):
        pass


def test_where_many_callers_have_one_name_there_is_no_share() -> None:
    budget = Budget(100, "answers", "--max-in-flight")
    with budget.hold("", 60), budget.hold("", 40), pytest.raises(Overloaded):
        budget.hold("", 1)


def test_what_is_larger_is_let_through_alone() -> None:
    budget = Budget(100, "answers", "--max-in-flight")
    with budget.hold("alice", 1000), pytest.raises(Overloaded):
        budget.hold("bob", 1)
    with budget.hold("alice", 30), pytest.raises(TooManyRequests):  # more than a quarter, alone
        budget.hold("alice", 1)


def test_all_of_it_is_given_back() -> None:
    budget = Budget(100, "answers", "--max-in-flight")

    def fail() -> None:
        with budget.hold("alice", 10) as held:
            held.grow(5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert budget.taken == 0


def test_what_one_holds_is_not_in_its_own_way() -> None:
    """One that is larger than the limit is let through alone also where it comes piece by piece."""
    budget = Budget(100, "bodies", "--max-in-flight")
    with budget.hold("alice") as held:
        for size in range(0, 1000, 10):
            held.resize(size)
        with pytest.raises(Overloaded):
            budget.hold("bob", 1)
        held.resize(20)
        with budget.hold("alice") as other:
            other.resize(5)
            with pytest.raises(TooManyRequests):
                other.resize(6)
            assert budget.taken == 25
    assert budget.taken == 0


def test_what_is_there_already_is_counted() -> None:
    budget = Budget(100, "answers", "--max-in-flight")
    with budget.hold("alice") as held, budget.hold("bob", 20) as other:
        held.count(90)
        assert (held.over, other.over, budget.taken) == (True, True, 110)
        held.count(20)
        assert (held.over, other.over, budget.taken) == (False, False, 40)


async def test_who_waits_gets_what_is_given_back() -> None:
    budget = Budget(100, "bodies", "--max-in-flight")
    order = []

    async def take(name: str, size: int) -> None:
        with budget.hold(name) as held:
            await held.room(size)
            held.grow(size)
            order.append(name)
            assert budget.taken <= 100
            await asyncio.sleep(0)

    with budget.hold("all", 25), budget.hold("", 60):
        waiting = [asyncio.create_task(take(name, 20)) for name in "abcde"]
        await take("f", 15)
        assert order == ["f"]
    await asyncio.gather(*waiting)
    assert sorted(order) == ["a", "b", "c", "d", "e", "f"]
    assert budget.taken == 0

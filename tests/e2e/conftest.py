"""Fixtures: releases, which are removed after their test, with a report if it has failed."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from tests.e2e.cluster import Release, Shape

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture
def install(request: pytest.FixtureRequest) -> Iterator[Callable[..., Release]]:
    """Install the chart: ``install(shape, size, value=…)``."""
    releases: list[Release] = []

    def new(shape: Shape, size: int = 1, **values: Any) -> Release:
        release = Release(os.environ["E2E_IMAGE"], shape, size)
        releases.append(release)
        return release.install(**values)

    yield new
    for release in releases:
        if request.node.stash.get(_FAILED, False):
            print("report:", release.report(f"{request.node.name}-{release.namespace}"))
        release.close()

"""Ties tests to the cases of cases.yaml: `-m case`, and what came of each, for the table.

A test needs no marker of its own: cases.yaml names it, and this adds `@pytest.mark.case(n)`.
Outcomes are kept in pytest's cache, so that runs of parts add up.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

CASES = Path(__file__).with_name("cases.yaml")
KEY = "reliability/outcomes"
TESTS = CASES.parents[1]


@cache
def cases() -> list[dict[str, Any]]:
    """The entries of cases.yaml."""
    found: list[dict[str, Any]] = yaml.safe_load(CASES.read_text(encoding="utf-8"))
    return found


@cache
def by_test() -> dict[str, list[int]]:
    """Case numbers by test: `service/test_deaths::test_…`."""
    found: dict[str, list[int]] = {}
    for case in cases():
        for test in case.get("tests", ()):
            found.setdefault(test, []).append(case["case"])
    return found


def name_of(nodeid: str) -> str:
    """The test's name in cases.yaml: without `tests/`, `.py` and parameters."""
    return nodeid.partition("[")[0].removeprefix("tests/").replace(".py::", "::")


def mark(items: list[pytest.Item]) -> None:
    """Give each test the numbers of its cases."""
    for item in items:
        for number in by_test().get(name_of(item.nodeid), ()):
            item.add_marker(pytest.mark.case(number))


class Outcomes:
    """What came of the tests of cases in this session."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the worst of setup, call and teardown."""
        if name_of(report.nodeid) not in by_test():
            return
        if report.when == "call" or report.outcome != "passed":
            before = self._found.get(report.nodeid)
            self._found[report.nodeid] = before if before == "failed" else report.outcome

    def pytest_sessionfinish(self) -> None:
        """Add them to those of earlier sessions."""
        cache_ = getattr(self._config, "cache", None)  # `-p no:cacheprovider` leaves it out
        if self._found and cache_ is not None:
            cache_.set(KEY, {**(cache_.get(KEY, None) or {}), **self._found})

"""docs/errors.md and docs/failures.md are what the source says."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tools import error_pages

HOW = "run `make docs`"


@pytest.mark.parametrize("path", error_pages.PAGES, ids=lambda path: path.name)
def test_the_page_is_the_one_of_the_source(path: Path) -> None:
    assert path.read_text("utf-8") == error_pages.PAGES[path](), HOW


def test_every_code_has_one_row_and_known_exit_codes() -> None:
    found = error_pages.raised()
    codes = {one.code for one in found}
    assert {"does_not_fit", "model_corrupt", "port_taken", "crash_loop"} <= codes
    assert all(one.code.replace("_", "").isalnum() for one in found)
    rows = [line for line in error_pages.errors_page().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == sorted(codes)


def test_codes_of_defaults_and_of_two_ways_are_listed_too() -> None:
    """`setting_invalid`, the error of every wrong option, was in no page."""
    codes = {one.code for one in error_pages.raised()}
    assert {"setting_invalid", "output_is_input", "output_unusable", "gateway_died"} <= codes
    tree = ast.parse("def _bad(words, code='x_y', *, more): return words")
    assert [one.code for node in ast.walk(tree) for one in error_pages._of(node, "m")] == ["x_y"]


def test_a_format_string_shows_what_is_filled_in() -> None:
    tree = ast.parse(
        "QlaunchError(f'a {b}', code='x_y', exit_code=ExitCode.USAGE, fix=f'do {that} now')"
    )
    [found] = [one for node in ast.walk(tree) for one in error_pages._of(node, "m")]
    assert (found.code, found.exit_code, found.fix) == ("x_y", "USAGE", "do … now")


def test_codes_of_problems_within_a_result_are_listed_too() -> None:
    """Those that are no exception: `interrupted` and `level_failed` were in no page."""
    codes = {one.code for one in error_pages.raised()}
    assert {"interrupted", "unexpected", "level_failed", "mode_failed", "doctor_problem"} <= codes
    golden = Path(__file__).with_name("golden") / "documents"
    documents = [json.loads(path.read_text("utf-8")) for path in sorted(golden.glob("*.json"))]
    given = {error["code"] for document in documents for error in document.get("errors", ())}
    assert given
    assert given <= codes

"""A report that finds no room is answered with that; it advised another folder of the user's."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from launcher.cli.runs_report import _write
from launcher.errors import QlaunchError


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room there, or name a file on another disk"),
        (errno.EDQUOT, "make room there, or name a file on another disk"),
        (errno.EROFS, "make room there, or name a file on another disk"),
        (errno.EACCES, "name a file in a folder that exists and is yours"),
    ],
    ids=["full", "quota", "read-only", "not permitted"],
)
def test_the_advice_is_about_what_is_wrong(number: int, advice: str, tmp_path: Path) -> None:
    def write(path: Path, _content: bytes) -> None:
        raise OSError(number, os.strerror(number), str(path))

    with pytest.raises(QlaunchError) as caught:
        _write(tmp_path / "r.html", "text", write)
    assert (caught.value.code, caught.value.fix) == ("report_not_written", advice)

"""The one exception type users see, and the exit codes scripts rely on."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import msgspec

    Document = Mapping[str, object] | msgspec.Struct
    """`data` of a command: a typed document, or its keys where there are few."""


class ExitCode(IntEnum):
    """Exit codes of the command line; documented in docs/cli.md and pinned by a test."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    NOT_RUNNING = 3
    DOES_NOT_FIT = 4
    ENGINE = 5
    START_FAILED = 6
    VERIFY_FAILED = 7
    TIMEOUT = 8
    CONFLICT = 9
    PARTIAL = 10
    INTERRUPTED = 130


class QlaunchError(Exception):
    """A failure with a stable code, one sentence of facts, and what to do about it.

    Args:
        message: what is wrong and where, in one sentence.
        code: stable identifier in snake_case, for scripts (`errors[].code` in JSON).
        exit_code: the process exit code this failure ends with; what was asked for is wrong in
            most of them.
        fix: what the user can do, in one sentence; None where nothing is known to help.
        data: what the command would have returned as `data`, as far as it is known.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str,
        exit_code: ExitCode = ExitCode.USAGE,
        fix: str | None = None,
        data: Document | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.exit_code = exit_code
        self.fix = fix
        self.data = data

    def saying(self, message: str) -> QlaunchError:
        """The same failure in another sentence."""
        return QlaunchError(
            message, code=self.code, exit_code=self.exit_code, fix=self.fix, data=self.data
        )

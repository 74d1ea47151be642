"""What a command returns, and the one place that turns it into text or JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from launcher.cli import screen
from launcher.errors import ExitCode, QlaunchError

if TYPE_CHECKING:
    from launcher.errors import Document

ENVELOPE_VERSION: Final = 1
Status = Literal["ok", "partial", "error"]


@dataclass(frozen=True)
class Problem:
    """One error of a result that is not thrown away with it."""

    code: str
    message: str
    fix: str | None = None


@dataclass(frozen=True)
class Result:
    """Outcome of a command: data for scripts, lines for people, problems for both."""

    data: Document
    lines: Sequence[str] = ()
    exit_code: ExitCode = ExitCode.OK
    status: Status = "ok"
    problems: Sequence[Problem] = field(default=())
    streamed: bool = False
    """What it had to say on stdout was written line by line (`stream`); no document follows."""
    verbatim: bool = False
    """The lines are a file's or a program's text: never coloured."""


def failure(error: QlaunchError) -> Result:
    """The result that stands for an error."""
    return Result(
        data=error.data or {},
        exit_code=error.exit_code,
        status="error",
        problems=(Problem(error.code, error.message, error.fix),),
    )


def envelope(command: str, result: Result) -> dict[str, object]:
    """The JSON document of a result; its keys are a contract."""
    return {
        "version": ENVELOPE_VERSION,
        "command": command,
        "status": result.status,
        "exit_code": int(result.exit_code),
        "data": result.data,
        "errors": [{"code": p.code, "message": p.message, "fix": p.fix} for p in result.problems],
    }


def render(command: str, result: Result, *, as_json: bool, colour: screen.Choice = "auto") -> None:
    """Print a result: JSON or text on stdout, problems of a text result on stderr."""
    if as_json and not result.streamed:
        import msgspec

        document = msgspec.to_builtins(envelope(command, result), enc_hook=os.fspath)
        encoded = msgspec.json.encode(_unescaped(document))
        _write(sys.stdout, _for_any_encoding(msgspec.json.format(encoded, indent=2).decode()))
        return
    if result.lines:
        lines = "\n".join(result.lines).split("\n")
        painted = not result.verbatim and screen.colours(sys.stdout, colour)
        _write(sys.stdout, "\n".join(map(screen.paint, lines) if painted else lines))
    painted = screen.colours(sys.stderr, colour)
    for problem in result.problems:
        lines = [f"Error: {problem.message}"]
        if problem.fix:
            lines.append(f"  Try: {problem.fix}")
        for line in lines:
            _write(sys.stderr, screen.paint(line) if painted else line)


def stream(line: str, *, as_json: bool) -> bool:
    """Print one line now, as `{"line": …}` for scripts; False when nobody reads any more."""
    if not as_json:
        return _write(sys.stdout, line)
    return stream_document({"line": line})


def stream_document(document: Document) -> bool:
    """Print one JSON document now, on a line of its own; False when nobody reads any more."""
    import msgspec

    encoded = msgspec.json.encode(_unescaped(msgspec.to_builtins(document, enc_hook=os.fspath)))
    return _write(sys.stdout, _for_any_encoding(encoded.decode()))


def _for_any_encoding(document: str) -> str:
    """A JSON document in ASCII where stdout is not UTF-8: the same to every reader of JSON."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    if document.isascii() or encoding.lower() == "utf-8":
        return document
    import json

    return "".join(one if one.isascii() else json.dumps(one)[1:-1] for one in document)


def _unescaped(value: Any) -> Any:
    """`value` with the stand-ins for undecodable bytes (in file names, say) made readable."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_unescaped(key): _unescaped(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_unescaped(inner) for inner in value]
    return value


def _write(stream: TextIO | None, text: str) -> bool:
    """Write one text and flush; False when the reader has gone.

    Raises:
        SystemExit: the text cannot be written (a full disk); code 1, said on stderr.
    """
    if stream is None:  # the descriptor was closed before the start
        return False
    # What the terminal's encoding lacks is shown as an escape; files and pipes are UTF-8 mostly.
    encoding = stream.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        stream.write(text + "\n")
        stream.flush()
    except OSError as error:
        # The stream is pointed at nothing so that the interpreter's own flush at exit stays quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if isinstance(error, BrokenPipeError):
            return False  # head or less has gone: nothing is wrong with the command
        if stream is not sys.stderr:
            _write(sys.stderr, f"Error: cannot write the result: {error.strerror or error}")
        sys.exit(int(ExitCode.UNEXPECTED))
    return True


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows as aligned columns, cut to the terminal's width; None shows as `-`."""
    cells = [list(headings), *([("-" if c is None else str(c)) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    widths = screen.fit(cells, widths, gap=2)
    return [
        "  ".join(screen.clip(c, w).ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]

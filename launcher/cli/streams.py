"""Text in every locale: Python's UTF-8 mode for us, the terminal's own encoding for the terminal.

In UTF-8 mode the same bytes of a file's name are the same text in every process of ours, and
files that a library opens without naming an encoding are UTF-8. The mode can only be chosen at
the start of an interpreter, so one that was started in another locale is replaced by itself.
"""

from __future__ import annotations

import codecs
import locale
import os
import sys
from typing import Final, TextIO

_UTF8: Final = "utf-8"


def prepare() -> None:
    """Make standard streams and text safe to use. At the beginning of the program, once."""
    _open_closed_streams()
    if not sys.flags.utf8_mode and _is_other(sys.getfilesystemencoding(), locale.getencoding()):
        _start_again()
    _follow_terminal()


def _is_other(*encodings: str) -> bool:
    return any(_codec(name) != _UTF8 for name in encodings)


def _codec(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        return name


def _start_again() -> None:
    """Replace this interpreter by the same one in UTF-8 mode, same arguments byte for byte."""
    try:
        with open("/proc/self/cmdline", "rb") as file:  # noqa: PTH123 - pathlib is 5 ms of --help
            words = file.read().split(b"\0")[:-1]
    except OSError:
        words = [os.fsencode(word) for word in sys.orig_argv]
    if not sys.executable or not words:
        return
    os.environ["PYTHONUTF8"] = "1"  # for the Python children of libraries
    python = os.fsencode(sys.executable)
    os.execv(python, [python, b"-X", b"utf8", *words[1:]])  # noqa: S606 - ourselves, no shell


def _open_closed_streams() -> None:
    """Where 0, 1 or 2 was closed (`<&-`), the next file we open would take its place."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this very one
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, encoding=_UTF8, closefd=False))  # noqa: SIM115


def _follow_terminal() -> None:
    """Print in the locale's encoding; what it lacks becomes an escape and never an error."""
    encoding = _codec(locale.getencoding())
    for stream in (sys.stdout, sys.stderr):
        _reconfigure(stream, encoding)


def _reconfigure(stream: TextIO, encoding: str) -> None:
    if not hasattr(stream, "reconfigure"):
        return
    # ASCII is what C and POSIX are called: Python itself writes UTF-8 there (PEP 540).
    if os.environ.get("PYTHONIOENCODING") or encoding in (_UTF8, "ascii"):
        stream.reconfigure(errors="backslashreplace")
        return
    try:
        stream.reconfigure(encoding=encoding, errors="backslashreplace")
    except LookupError:  # an encoding of the C library that Python does not have
        stream.reconfigure(errors="backslashreplace")

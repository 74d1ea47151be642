"""What pip's log says of a failed download or install: the index, the network, or the disk.

pip ends with "No matching distribution found" also where an index gave no answer at all; only its
log (`--log`) tells the two apart.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from launcher.linux.files import SAYS_FULL
from launcher.network import classify
from launcher.network.causes import Cause

Trouble = Literal["disk_full", "file_limit", "not_permitted"]

_FETCH: Final = re.compile(r"Could not fetch URL (\S+): (.*)")
_RETRY: Final = re.compile(r"Retrying \(Retry\(.*?after connection broken by (.*)")
_GETTING: Final = re.compile(r"HTTP error (\d{3}) while getting (\S+)")
_STATUS: Final = re.compile(r"\b\d{3} (?:Client|Server) Error: .*? for url: (\S+)")
_DIAGNOSED: Final = re.compile(
    r"(?:ERROR|error): .*|"
    r".*(?:Connection ?Pool|HTTPSConnection|IncompleteRead|Connection broken|ProtocolError).*"
)
_INSECURE: Final = re.compile(r"The repository located at (\S+) is not a trusted or secure host")
_URL: Final = re.compile(r"https?://[^\s'\"<>)]+")
_HASH: Final = re.compile(r"DO NOT MATCH THE HASHES|Hash mismatch|Expected sha256 .*\n.*Got")
_REFUSED: Final = re.compile(r"\[Errno (?:1|13|30)\] [^:\n]*: '([^'\n]*)'")
_FILE_LIMIT: Final = re.compile(r"\[Errno 27\]")
"""EFBIG: a file would be larger than `ulimit -f` allows."""
_SETTING: Final = re.compile(
    r"An error occurred during configuration: (.+)|^(\S+ error: .+)$|^(no such option: .+)$|"
    r"OSError: (Failed to parse: .+)",
    re.MULTILINE,
)
_MISSING: Final = re.compile(
    r"No matching distribution found for (\S+)|The user requested \(constraint\) (\S+)"
)
_CORRUPT_WHEEL: Final = re.compile(r"Wheel .* is invalid|BadZipFile|File is not a zip file")


def cause(text: str, index: str, proxy: str | None = None) -> Cause | None:
    """Why pip did not get what it was asked for; None where its index answered.

    Args:
        text: pip's output and log.
        index: the address it was to ask, where its words name none.
        proxy: pip's own proxy setting.
    """
    if _HASH.search(text) or _CORRUPT_WHEEL.search(text):
        return Cause("download_corrupt", _address(text, index), "hash")
    if insecure := _INSECURE.search(text):
        why = "pip takes nothing from an http index that is not in PIP_TRUSTED_HOST"
        return Cause("address_invalid", f"http://{insecure[1]}", why)
    # The last words first: earlier ones may be of tries that were made good later.
    for line in reversed(text.splitlines()):
        url, words = _said(line, index)
        found = classify.of_text(words, url, proxy) if words else None
        if found is not None and found.kind != "not_found":
            return found
    return None


def trouble(text: str) -> tuple[Trouble, str] | None:
    """What this machine refused pip, and the path that its words name (or "")."""
    if SAYS_FULL.search(text):
        return "disk_full", ""
    if _FILE_LIMIT.search(text):
        return "file_limit", ""
    if refused := _REFUSED.search(text):
        return "not_permitted", refused[1]
    return None


def wrong_setting(text: str) -> str | None:
    """pip's words of a setting that it does not take; it has installed nothing then."""
    found = _SETTING.search(text)
    return next(filter(None, found.groups())) if found else None


def missing(text: str) -> str | None:
    """What the index has no build of, as pip names it; it has installed nothing then."""
    found = _MISSING.search(text)
    return found[1] or found[2] if found else None


def _said(line: str, index: str) -> tuple[str, str]:
    """Address and words of a line that tells of a failure; no words where it does not."""
    if match := _FETCH.search(line):
        return match[1], match[2].removesuffix(" - skipping")
    if match := _RETRY.search(line):
        return index, match[1]
    if match := _GETTING.search(line):
        return match[2], line
    if match := _STATUS.search(line):
        return match[1], line
    if match := _DIAGNOSED.search(line):
        return _address(line, index), match[0]
    return index, ""


def _address(text: str, index: str) -> str:
    found = _URL.search(text)
    return found[0] if found else index

"""Fill the gateway's cache with the texts of a file, by asking the gateway for them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from launcher.app.server_address import api_url
from launcher.errors import ExitCode, QlaunchError
from launcher.gateway.problems import renamed
from launcher.linux.files import why_unreadable

if TYPE_CHECKING:
    import requests

_TIMEOUT_S: Final = 300.0
_LONGEST: Final = 1 << 20


class Warmed(msgspec.Struct, frozen=True):
    """What came of it."""

    texts: int
    hits: int
    """Texts that were in the cache before."""


def warm_cache(file: Path, *, url: str, model: str, key_file: Path | None, batch: int) -> Warmed:
    """Ask for every text of the file.

    Args:
        file: one text a line; a name that ends with `.jsonl` has a JSON string on each.
        url: the gateway's, `http://host:port/v1`.
        model: its name there.
        key_file: the first key in it is sent.
        batch: texts of one request.

    Raises:
        QlaunchError: `bad_text_file`, `bad_url` (exit 2), `gateway_unreachable` (exit 3),
            `gateway_refused` (exit 1).
    """
    import requests

    url = api_url(url, option="--gateway", example="http://127.0.0.1:30100/v1")
    count = hits = 0
    with requests.Session() as session:
        session.trust_env = False
        if key_file is not None:
            session.headers["Authorization"] = f"Bearer {_first_key(key_file)}"
        texts = _texts(file)
        while part := dict(islice(texts, batch)):
            hits += _ask(session, url, model, part)
            count += len(part)
    return Warmed(count, hits)


def _ask(session: requests.Session, url: str, model: str, texts: dict[int, str]) -> int:
    """How many of the texts, by their lines, were in the cache."""
    import requests

    body = msgspec.json.encode(
        {"model": model, "input": list(texts.values()), "encoding_format": "base64"}
    )
    try:
        answer = session.post(
            f"{url.rstrip('/')}/embeddings",
            data=body,
            headers={"Content-Type": "application/json"},
            timeout=_TIMEOUT_S,
        )
    except requests.RequestException as error:
        raise QlaunchError(
            f"the gateway {url} cannot be reached: {type(error).__name__}",
            code="gateway_unreachable",
            exit_code=ExitCode.NOT_RUNNING,
            fix="start it with qlaunch gateway, or give --gateway its endpoint",
        ) from error
    if answer.status_code != 200:
        said = renamed(answer.content, [f"line {number}" for number in texts])
        raise QlaunchError(
            f"the gateway refused ({answer.status_code}): {said.decode(errors='replace')[:300]}",
            code="gateway_refused",
            exit_code=ExitCode.UNEXPECTED,
            fix="the vectors made so far are kept: run it again when that is fixed",
        )
    hits = answer.headers.get("X-Cache-Hits")
    if hits is None:
        raise QlaunchError(
            f"{url} answers, and is not a gateway: it has no cache to fill",
            code="gateway_refused",
            exit_code=ExitCode.UNEXPECTED,
            fix="give --gateway the endpoint of a gateway",
        )
    return int(hits)


def _texts(file: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each line that has one."""
    as_json = file.suffix == ".jsonl"
    try:
        # A byte order mark is none of the first text; nothing but a newline ends one.
        with file.open(encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                text = line.removesuffix("\n").removesuffix("\r")
                if not text.strip():
                    continue
                if len(text) > _LONGEST:
                    raise _bad(file, number, "is longer than a megabyte")
                yield number, _string(file, number, text) if as_json else text
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(file, None, f"cannot be read: {why_unreadable(error)}") from error


def _string(file: Path, number: int, text: str) -> str:
    try:
        return msgspec.json.decode(text, type=str)
    except ValueError:
        raise _bad(file, number, "is not a JSON string") from None


def _first_key(file: Path) -> str:
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(file, None, f"cannot be read: {why_unreadable(error)}") from error
    # After a key there may be what it is allowed.
    keys = [line.split()[0] for line in lines if line.strip() and line.strip()[0] != "#"]
    if not keys or not keys[0].isascii():
        raise _bad(file, None, "holds no key")
    return keys[0]


def _bad(file: Path, number: int | None, why: str) -> QlaunchError:
    place = f"line {number} of {file}" if number else str(file)
    return QlaunchError(
        f"{place} {why}",
        code="bad_text_file",
        fix="give UTF-8 text, one text a line, or a JSON string on each line of a .jsonl file",
    )

"""Who may ask: API keys from a file, and names by which this machine may be called."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from pathlib import Path
from typing import Final

from launcher.errors import ExitCode, QlaunchError
from launcher.gateway.rates import Allowance, Client
from launcher.linux.files import NOT_WRITABLE, why_unreadable
from launcher.network.listening import is_loopback

_MOST_BYTES: Final = 1 << 20
_LEAST_LETTERS: Final = 8
_FORM: Final = (
    f"a key of at least {_LEAST_LETTERS} letters, with texts=N, tokens=N or priority=bulk after it"
)
_HOST: Final = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::[0-9]*)?|([0-9a-f:.]+)")
"""A name or an address, and a port, as the guard reads it (qlaunch_guard/routes.py)."""
_WORD: Final = re.compile(r"(texts|tokens)=([1-9][0-9]{0,11})|priority=(interactive|bulk)")


class Keys:
    """The keys of a file: one a line, `#` begins a comment. Changes count without a restart.

    After a key there may be `texts=N` and `tokens=N`, which it may have a minute, and
    `priority=bulk`.
    """

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            QlaunchError: `bad_api_key_file` (exit 2): it cannot be read, or holds no key.
        """
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._clients: dict[bytes, Client] = {}
        self._told: str | None = None
        problem = self.reload()
        if problem is not None:
            raise QlaunchError(
                problem,
                code="bad_api_key_file",
                fix=f"write {_FORM} on each line",
            )

    def reload(self) -> str | None:
        """Read the file again where it changed; what is newly wrong with it, in a sentence.

        A file that is wrong changes nothing: the keys before it stay.
        """
        problem = self._read()
        news = problem if problem != self._told else None
        self._told = problem
        return news

    def _read(self) -> str | None:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if stamp == self._stamp:
                return None
            if stat.st_size > _MOST_BYTES:
                return f"{self._path} is too large for a file of keys"
            lines = self._path.read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = why_unreadable(error)
            return f"cannot read the keys in {self._path}: {why}"
        clients = {}
        for number, line in enumerate(lines, 1):
            if line.strip() and line.strip()[0] != "#":
                client = _client(line.split())
                if client is None:
                    return f"{self._path} line {number} is not {_FORM}"
                clients[client.id] = client
        if not clients:
            return f"{self._path} holds no key"
        self._stamp = stamp
        self._clients = clients
        return None

    def client(self, authorization: str | None) -> Client | None:
        """Whose key an Authorization header has; None: nobody's. Takes the same time for all."""
        scheme, _, key = (authorization or "").partition(" ")
        asked = _digest(key.strip())
        good = None
        for digest, client in self._clients.items():
            if hmac.compare_digest(digest, asked):
                good = client
        return good if scheme.lower() == "bearer" else None


def _client(words: list[str]) -> Client | None:
    """The client of one line; None where it is not understood."""
    key, *rest = words
    if len(key) < _LEAST_LETTERS:
        return None
    values = {}
    for word in rest:
        match = _WORD.fullmatch(word)
        if match is None:
            return None
        values[word.partition("=")[0]] = match[2] or match[3]
    texts, tokens = (int(values[name]) if name in values else None for name in ("texts", "tokens"))
    bulk = values.get("priority") == "bulk"
    return Client(
        id=_digest(key),
        allowance=Allowance(texts=texts, tokens=tokens),
        priority="bulk" if bulk else None,
    )


class OneKey:
    """The one key of a service, which does not change while it runs."""

    def __init__(self, key: str) -> None:
        self._client = Client(id=_digest(key))

    def reload(self) -> str | None:
        """Nothing is read again."""
        return None

    def client(self, authorization: str | None) -> Client | None:
        """Whose key an Authorization header has; None: nobody's. Takes the same time for all."""
        scheme, _, key = (authorization or "").partition(" ")
        good = hmac.compare_digest(self._client.id, _digest(key.strip()))
        return self._client if good and scheme.lower() == "bearer" else None


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=32).digest()


def host_allowed(header: str | None, names: frozenset[str]) -> bool:
    """Whether a Host header names this machine: a page of another name must not read from here.

    Args:
        header: the Host header.
        names: further names that are allowed.
    """
    if not header:
        return True  # HTTP/1.0, which no browser speaks
    found = _HOST.fullmatch(header.strip().lower())
    if found is None:
        return False
    name = "".join(part or "" for part in found.groups()).rstrip(".")
    return name.endswith(".localhost") or name in names or is_loopback(name)


def secret(path: Path) -> bytes:
    """The secret that keys are made with: 32 bytes from a file of mode 0600, made where missing.

    Raises:
        QlaunchError: `cache_key` (exit 1): it cannot be made or read, others can read it, or it is
            no such file.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_once(path)
        stat = path.stat()
        content = path.read_bytes()
    except OSError as error:
        room = "make room there, or give --cache-key-file another place"
        fix = room if error.errno in NOT_WRITABLE else None
        raise _no_secret(path, error.strerror or str(error), fix) from error
    if len(content) != 32:
        raise _no_secret(path, f"it has {len(content)} bytes instead of 32")
    if stat.st_mode & 0o077:
        raise _no_secret(path, "others can read it")
    return content


def _make_once(path: Path) -> None:
    """Whoever comes first makes it; it is never seen half written."""
    if path.exists():
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with open(draft, "wb", opener=_private) as file:
            file.write(os.urandom(32))
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first: its secret counts
    finally:
        draft.unlink(missing_ok=True)


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def _no_secret(path: Path, why: str, fix: str | None = None) -> QlaunchError:
    return QlaunchError(
        f"the cache's key {path} cannot be used: {why}",
        code="cache_key",
        exit_code=ExitCode.UNEXPECTED,
        fix=fix
        or "remove it (the cache starts empty then), or give --cache-key-file another, mode 0600",
    )

"""The certificate that a gateway shows: a renewed one counts without a restart."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

from launcher.errors import QlaunchError

LOOK_S: Final = 1.0
_LOG: Final = logging.getLogger("qlaunch.gateway")
_Stamp = tuple[tuple[int, int, int], ...]


class Certificate:
    """A certificate with its key, from two files."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read them.

        Raises:
            QlaunchError: `bad_tls` (exit 2): they cannot be used.
        """
        self._files = certificate, key
        self._stamp = self._now()
        self._refused = self._stamp
        """As the files were when they could not be used."""
        self._told: _Stamp | None = None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        """New connections are made with what was read last."""
        try:
            self._load(self.context)
        except (OSError, ValueError) as error:
            raise QlaunchError(
                f"cannot use the certificate {certificate} with the key {key}: {error}",
                code="bad_tls",
                fix="give PEM files: the certificate with its chain, and its key without a"
                " passphrase",
            ) from error

    async def follow(self) -> None:
        """Look for other files again and again."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Take the files where they changed; those that cannot be used change nothing.

        Certificate and key are replaced one after the other, so a pair that does not match is told
        only when it has stayed.
        """
        now = self._now()
        if now in (self._stamp, self._told):
            return
        try:
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))  # to see that it can be
            self._load(self.context)
        except (OSError, ValueError) as error:
            if now == self._refused:
                self._told = now
                certificate, key = self._files
                text = "cannot use the certificate %s with the key %s: %s; the one before stays"
                _LOG.warning(text, certificate, key, error)
            self._refused = now
        else:
            self._stamp, self._told = now, None
            _LOG.info("the certificate %s was read again", self._files[0])

    def _load(self, context: ssl.SSLContext) -> None:
        # Without a password OpenSSL would ask the terminal for one, and wait.
        context.load_cert_chain(*self._files, password="")

    def _now(self) -> _Stamp:
        stamps = []
        for file in self._files:
            try:
                found = file.stat()
            except OSError:
                stamps.append((0, 0, 0))
            else:
                stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(stamps)

"""Calls to servers: by the short way where it goes, else by aiohttp's client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Self

from launcher.gateway.plain_http import Answer, NotPlainError, PlainHttp
from launcher.gateway.problems import WrongAnswerError

if TYPE_CHECKING:
    import aiohttp

ANSWER_BYTES: Final = 256 << 20
"""Most bytes of one answer of a server."""
IDLE_S: Final = 4.0
"""A connection to a server is kept for: uvicorn, which most servers run on, closes it after 5 s."""


class UnreachableError(Exception):
    """No connection, or it ended before the answer did; the message names the kind of failure."""


class Caller:
    """Makes calls, over connections that it keeps."""

    def __init__(self, session: aiohttp.ClientSession, *, traced: bool = False) -> None:
        """`traced`: the session's own spans are wanted, so that every call is its."""
        self._session = session
        self._plain = None if traced else PlainHttp(IDLE_S, ANSWER_BYTES)
        self._not_plain: set[str] = set()
        """URLs of servers that answer in other ways."""

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> Answer:
        """The answer to one POST.

        Raises:
            TimeoutError: it did not come in time.
            UnreachableError: no connection, or not to its end.
            WrongAnswerError: it is larger than any answer.
        """
        if self._plain is not None and url.startswith("http://") and url not in self._not_plain:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._plain.post(url, headers, body)
            except NotPlainError:
                self._not_plain.add(url)
            except TimeoutError:
                raise
            except OSError as error:
                raise UnreachableError(type(error).__name__) from error
        return await self._by_session(url, headers, body, timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close what lies idle; the session is its owner's."""
        if self._plain is not None:
            self._plain.close()
            await asyncio.sleep(0)  # the loop closes sockets in its next turn

    async def _by_session(
        self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> Answer:
        import aiohttp

        try:
            async with self._session.post(
                url,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout_s, connect=5.0),
                allow_redirects=False,
            ) as response:
                named = {name.lower(): value for name, value in response.headers.items()}
                return Answer(status=response.status, headers=named, body=await bounded(response))
        except TimeoutError:
            raise
        except aiohttp.ClientError as error:
            raise UnreachableError(type(error).__name__) from error


async def bounded(response: aiohttp.ClientResponse) -> bytes:
    """The body of an answer.

    Raises:
        WrongAnswerError: it is larger than any answer.
    """
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > ANSWER_BYTES:
            raise WrongAnswerError(f"more than {ANSWER_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)

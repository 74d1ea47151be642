"""Refusals and failures as clients of the interface see them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Self

import msgspec

TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_NUMBER: Final = re.compile(rb"\binput\[([0-9]{1,7})\]")
"""How the guard names an input of a call, and its number."""


def renamed(said: bytes, names: Sequence[str]) -> bytes:
    """A refusal with the reader's own name for each input that it names.

    Args:
        said: names inputs as the guard does.
        names: of the inputs of the refused call, in order.
    """

    def own(found: re.Match[bytes]) -> bytes:
        number = int(found[1])
        return names[number].encode() if number < len(names) else found[0]

    return _NUMBER.sub(own, said)


class RequestError(Exception):
    """An answer that is no vector: status, code and one sentence; never a text of the user.

    Status, type, code and param of a refused request are those of the guard before a service's
    engine (qlaunch_guard/refusal.py): clients need not know which of the two they ask.

    Args:
        status: of HTTP.
        code: stable identifier in snake_case.
        message: one sentence.
        param: the field of the request that it is about.
        retry_after: seconds; None: no such header.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        more = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return more | {"WWW-Authenticate": "Bearer"} if self.status == 401 else more

    def body(self) -> bytes:
        """In the form of OpenAI's interface."""
        kind = TYPES.get(self.status)
        if kind is None:
            kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


def too_large(most: int) -> RequestError:
    """A body above the limit."""
    return RequestError(413, "body_too_large", f"the body has more than {most} bytes")


class UpstreamRefusalError(RequestError):
    """The server behind refused or failed; its own words go to the client where they are JSON."""

    def __init__(self, status: int, body: bytes, *, retry_after: int | None = None) -> None:
        text = f"the server answered with status {status}"
        super().__init__(status, "upstream_refused", text, retry_after=retry_after)
        self._body = body

    def numbered(self, numbers: Sequence[int]) -> Self:
        """The same in the numbers of the client's own call.

        Args:
            numbers: of each input of the server's call, its number in the client's.
        """

        body = renamed(self._body, [f"input[{number}]" for number in numbers])
        return type(self)(self.status, body, retry_after=self.retry_after)

    def body(self) -> bytes:
        """What the server answered."""
        try:
            msgspec.json.decode(self._body, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return super().body()
        return self._body


class WrongAnswerError(Exception):
    """A server's answer that cannot be right: nothing of it is used or kept."""


class OtherLengthError(WrongAnswerError):
    """Vectors of another length than the model's: it is another model."""

"""A body that came compressed, made whole within a bound. Pure.

aiohttp's own way takes a stream that was cut off before its checksum for a whole one.
"""

from __future__ import annotations

import zlib
from typing import Final

from launcher.gateway.problems import RequestError, too_large

_GZIP: Final = 16 + zlib.MAX_WBITS
_METHOD: Final = 8
"""In the low bits of the first byte of a zlib stream, which `deflate` means; some send it bare."""


def inflated(data: bytes, encoding: str, most: int) -> bytes:
    """The body.

    Args:
        data: as it came.
        encoding: its Content-Encoding.
        most: bytes of the result.

    Raises:
        RequestError: 400: it is no such stream, or no whole one; 413: it is longer; 415: another
            encoding.
    """
    kind = encoding.strip().lower()
    if kind == "identity":
        return data
    if kind not in ("gzip", "x-gzip", "deflate"):
        text = "the body must be compressed by gzip or deflate, or not at all"
        raise RequestError(415, "bad_content_encoding", text)
    bits = _GZIP if kind != "deflate" else zlib.MAX_WBITS
    if kind == "deflate" and data and data[0] & 0xF != _METHOD:
        bits = -bits
    stream = zlib.decompressobj(bits)
    try:
        whole = stream.decompress(data, most + 1)
    except zlib.error:
        raise _bad(kind, "cannot be decompressed") from None
    if len(whole) > most:
        raise too_large(most)
    if data and not stream.eof:
        raise _bad(kind, "ends too early")
    if stream.unused_data:
        raise _bad(kind, "goes on after its end")
    return whole


def _bad(kind: str, why: str) -> RequestError:
    return RequestError(400, "bad_body", f"the body is said to be {kind}, and {why}")

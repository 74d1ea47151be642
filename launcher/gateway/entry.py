"""An entry of the store: a vector that proves on reading that it belongs to its key.

Layout, little-endian: magic `qe` (2 bytes), version (1), dtype (1), numbers (4), seal (16), data.
The seal is a keyed BLAKE2b over key, header and data. An entry that was damaged, cut, stored
under another key or made by someone without the secret is no entry.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final, Literal

Dtype = Literal["float32", "float16"]

_MAGIC: Final = b"qe"
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<2sBBI")
_SEAL: Final = 16
OVERHEAD: Final = _HEAD.size + _SEAL
_CODES: Final[dict[str, int]] = {"float32": 1, "float16": 2}
_WIDTH: Final = {1: 4, 2: 2}


class BadEntryError(ValueError):
    """What the store gave is not what was stored under this key."""


def pack(secret: bytes, key: bytes, vector: bytes, dtype: Dtype = "float32") -> bytes:
    """The entry of a vector (float32, little-endian).

    Raises:
        OverflowError: a number is too large for float16.
    """
    code = _CODES[dtype]
    head = _HEAD.pack(_MAGIC, _VERSION, code, len(vector) // 4)
    data = vector if code == 1 else halved(vector)
    return head + _seal(secret, key, head, data) + data


def unpack(secret: bytes, key: bytes, entry: bytes) -> bytes:
    """The vector (float32, little-endian) of an entry that was read under `key`.

    Raises:
        BadEntryError: it is damaged, of another key, or not ours.
    """
    if len(entry) < OVERHEAD:
        raise BadEntryError(f"{len(entry)} bytes are not an entry")
    magic, version, code, count = _HEAD.unpack_from(entry)
    if magic != _MAGIC or version != _VERSION or code not in _WIDTH:
        raise BadEntryError("not an entry of this version")
    head, seal, data = entry[: _HEAD.size], entry[_HEAD.size : OVERHEAD], entry[OVERHEAD:]
    if len(data) != count * _WIDTH[code]:
        raise BadEntryError(f"{len(data)} bytes for {count} numbers")
    if not hmac.compare_digest(seal, _seal(secret, key, head, data)):
        raise BadEntryError("its checksum does not match")
    return data if code == 1 else _doubled(data, count)


def as_kept(vector: bytes, dtype: Dtype) -> bytes:
    """A vector as it will be read again: first answers and later ones are the same.

    Raises:
        OverflowError: a number is too large for float16.
    """
    if dtype == "float32":
        return vector
    return _doubled(halved(vector), len(vector) // 4)


def halved(vector: bytes) -> bytes:
    """float32 to float16, rounded to nearest."""
    count = len(vector) // 4
    return struct.pack(f"<{count}e", *struct.unpack(f"<{count}f", vector))


def _doubled(data: bytes, count: int) -> bytes:
    return struct.pack(f"<{count}f", *struct.unpack(f"<{count}e", data))


def _seal(secret: bytes, key: bytes, head: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(
        key + head + data, digest_size=_SEAL, key=secret, person=b"qlaunch-entry"
    ).digest()

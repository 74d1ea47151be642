"""What decides a vector, and the keys made of it: equal keys mean equal vectors, and nothing else.

A key is `space` (16 bytes: everything that decides vectors besides the input) and a digest of the
input (32 bytes). Both are BLAKE2b with a secret of this installation: whoever reads the store
cannot tell texts by guessing them, and nobody without the secret can make two inputs collide.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from typing import Final

import msgspec

SPACE_BYTES: Final = 16
DIGEST_BYTES: Final = 32
KEY_BYTES: Final = SPACE_BYTES + DIGEST_BYTES
MOST_IDS: Final = 2**31 - 1
"""The largest token id."""

Input = str | tuple[int, ...]
"""One text, or one text's token ids."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Everything besides the input that decides a vector; "" or () where it is not known."""

    model: str
    revision: str = ""
    fingerprint: str = ""
    """Of the weights, tokenizer and modules."""
    pooling: str = ""
    normalize: bool | None = None
    dtype: str = ""
    dimensions: int | None = None
    """Numbers of an uncut vector."""
    engine: str = ""
    """Name and version of the server."""
    plugin: str = ""
    """Of what runs inside the server."""
    instruction: str = ""
    """What the server itself puts before texts; ours puts nothing."""
    settings: tuple[str, ...] = ()
    """Options and variables of the server, as far as they may change vectors."""
    origin: str = ""
    """The URL, where nothing better names the weights."""
    probe: str = ""
    """Digest of what the server makes of texts of our own, where its weights cannot be read."""


def space_of(secret: bytes, identity: Identity) -> bytes:
    """The space of an identity: 16 bytes, the beginning of all its keys."""
    fields = msgspec.json.encode(msgspec.to_builtins(identity), order="deterministic")
    return hashlib.blake2b(
        fields, digest_size=SPACE_BYTES, key=secret, person=b"qlaunch-space"
    ).digest()


def input_key(
    secret: bytes, space: bytes, item: Input, *, dimensions: int | None, options: bytes = b""
) -> bytes:
    """The key of one input: 48 bytes.

    Args:
        secret: at most 64 bytes.
        space: from `space_of`.
        item: the exact text, or its token ids; a text never has the key of its token ids.
        dimensions: asked for; None: the model's own.
        options: further fields of the request that may change the vector, in one canonical form.
    """
    if isinstance(item, str):
        kind, data = b"t", item.encode("utf-8")
    else:
        kind, data = b"i", ids_bytes(item)
    # Every part has a fixed length or its length before it: no two requests give the same bytes.
    head = b"%b%b%b" % (
        (dimensions or 0).to_bytes(8, "little"),
        len(options).to_bytes(8, "little"),
        options,
    )
    digest = hashlib.blake2b(
        head + kind + data,
        digest_size=DIGEST_BYTES,
        key=secret,
        salt=space,
        person=b"qlaunch-input",
    )
    return space + digest.digest()


def ids_bytes(ids: tuple[int, ...]) -> bytes:
    """Token ids as little-endian 32-bit numbers."""
    numbers = array("I", ids)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()

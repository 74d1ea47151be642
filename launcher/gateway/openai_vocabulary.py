"""Token ids of OpenAI's tokenizer, turned back into text.

LangChain's `OpenAIEmbeddings` and others send token ids of tiktoken's vocabulary (cl100k_base)
whatever model they ask. To any other model these numbers are other words.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Final

from launcher.errors import QlaunchError
from launcher.gateway.problems import RequestError

_MOST_BYTES: Final = 64 << 20


class OpenAIVocabulary:
    """The bytes of each token id, from a file of tiktoken: base64 and id on each line."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            QlaunchError: `bad_vocabulary` (exit 2).
        """
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise _bad(path, "is too large for a vocabulary")
            lines = path.read_bytes().split(b"\n")
        except OSError as error:
            raise _bad(path, f"cannot be read: {error}") from error
        self._tokens: dict[int, bytes] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                word, rank = line.split()
                self._tokens[int(rank)] = base64.b64decode(word, validate=True)
            except (ValueError, binascii.Error):
                raise _bad(path, f"has a line {number} that is not base64 and a number") from None
        if not self._tokens:
            raise _bad(path, "has no tokens")

    def text(self, place: int, ids: tuple[int, ...]) -> str:
        """The text of token ids; bytes that are not UTF-8, as at a cut, become U+FFFD.

        Args:
            place: of the input, for the message.
            ids: of the vocabulary.

        Raises:
            RequestError: 400: an id that the vocabulary does not have.
        """
        try:
            parts = [self._tokens[token] for token in ids]
        except KeyError as error:
            raise RequestError(
                400,
                "foreign_token_ids",
                f"input[{place}] has the token id {error.args[0]}, which is not in OpenAI's"
                " vocabulary that the gateway reads token ids with",
                param="input",
            ) from None
        return b"".join(parts).decode("utf-8", "replace")


def _bad(path: Path, why: str) -> QlaunchError:
    return QlaunchError(
        f"the vocabulary {path} {why}",
        code="bad_vocabulary",
        fix="give tiktoken's file cl100k_base.tiktoken",
    )

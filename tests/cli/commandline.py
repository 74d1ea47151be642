"""What a command answered, and the promises every answer keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ENVELOPE = {"version", "command", "status", "exit_code", "data", "errors"}


@dataclass(frozen=True)
class Answer:
    """Exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """The JSON document, held to the contract of docs/cli.md."""
        found: dict[str, Any] = json.loads(self.out)
        assert set(found) == ENVELOPE
        assert found["version"] == 1
        assert found["exit_code"] == self.code
        assert found["status"] in ("ok", "partial", "error")
        assert (found["status"] == "ok") == (self.code == 0)
        assert isinstance(found["data"], dict)
        assert bool(found["errors"]) == (self.code != 0)
        for error in found["errors"]:
            assert set(error) == {"code", "message", "fix"}
            assert error["code"].replace("_", "").isalnum()
            assert error["message"]
            assert "Traceback" not in error["message"]
        return found

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = self.document["data"]
        return data

    @property
    def error(self) -> dict[str, Any]:
        """The first error."""
        error: dict[str, Any] = self.document["errors"][0]
        return error


Run = Callable[..., Answer]

"""The quantiser's environment: llm-compressor and what comes with it, apart from the engines."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from launcher.engine.environments import tools

TOOL: Final = tools.Tool(
    name="quantizer",
    title="llm-compressor with AutoRound",
    package="llmcompressor",
    version="0.14.0.1",
    python=">=3.11,<3.14",
    requirements=("torch==2.13.0",),
    then=("llmcompressor==0.14.0.1",),
    lock=Path(__file__).with_name("locks") / "quantizer.txt",
    disk_bytes=1_700_000_000,
)


def folder(data: Path) -> Path:
    """Its place under the data folder; absolute, as scripts in it need it."""
    return data.absolute() / "tools" / TOOL.name

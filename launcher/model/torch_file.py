"""What a file of torch.save would run when read: told by its pickle, which is not executed."""

from __future__ import annotations

import io
import os
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Final

from launcher.model.files import POINTER, broken, check_pointer, missing, open_regular
from launcher.yaml_reader import shown

_CALLED: Final = frozenset({
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
    "torch FloatStorage", "torch HalfStorage", "torch BFloat16Storage", "torch DoubleStorage",
})  # fmt: skip
"""What a dictionary of tensors is made with."""
_LEGACY: Final = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""How files of PyTorch before 1.6 begin: a pickle of a magic number."""
_MOST: Final = 16 << 20
"""Bytes of a pickle, which holds names and shapes and no numbers."""
_BEFORE: Final = 3
"""Pickles before that of the dictionary in an old file: magic number, version and machine."""


def check_torch_file(path: Path) -> set[str]:
    """Texts in a file that is a plain dictionary of tensors, their names among them.

    Raises:
        QlaunchError: exit 2: `model_incomplete` (nothing there), `model_corrupt` (cut short),
            `model_unsupported` (it would call something else when it is read).
    """
    with os.fdopen(open_regular(path), "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise missing(path, "is empty")
        check_pointer(path, file.read(len(POINTER)))
        file.seek(0)
        try:
            return _texts(path, _dictionary(file))
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, RuntimeError) as error:
            raise broken(path, "is cut short, or PyTorch did not save it") from error


def _dictionary(file: IO[bytes]) -> IO[bytes]:
    """The pickle of the dictionary."""
    if file.read(len(_LEGACY)) == _LEGACY:
        file.seek(0)
        for _ in range(_BEFORE):
            for _opcode in pickletools.genops(file):
                pass
        return file
    with zipfile.ZipFile(file) as archive:
        names = [each for each in archive.namelist() if each.endswith("/data.pkl")]
        inside = names[0] if names else "data.pkl"
        with archive.open(inside) as stream:
            return io.BytesIO(stream.read(_MOST))


def _texts(path: Path, pickled: IO[bytes]) -> set[str]:
    """Texts in a pickle, all that it would call being known to be harmless."""
    texts = set()
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("GLOBAL", "INST", "STACK_GLOBAL") and argument not in _CALLED:
            raise broken(
                path,
                f"calls {shown(str(argument or 'code'))} when it is read, which is not run",
                code="model_unsupported",
                fix="take the module's weights as model.safetensors",
            )
        if isinstance(argument, str):
            texts.add(argument)
    return texts

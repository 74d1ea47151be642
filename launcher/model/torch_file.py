"""A file of torch.save without torch: the tensors it holds, and nothing of it is ever run.

A pickle names what it would call; only the few makers of a tensor are known here, and stand-ins of
ours take their places.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final, NamedTuple

from launcher.errors import QlaunchError
from launcher.model.files import POINTER, broken, check_stand_in, missing, open_regular
from launcher.model.safetensors import Tensor
from launcher.model.values import check_numbers
from launcher.yaml_reader import shown

_DTYPES: Final[Mapping[str, tuple[str, int]]] = MappingProxyType({
    "torch FloatStorage": ("F32", 4), "torch HalfStorage": ("F16", 2),
    "torch BFloat16Storage": ("BF16", 2), "torch DoubleStorage": ("F64", 8),
    "torch LongStorage": ("I64", 8), "torch IntStorage": ("I32", 4),
    "torch ShortStorage": ("I16", 2), "torch CharStorage": ("I8", 1),
    "torch ByteStorage": ("U8", 1), "torch BoolStorage": ("BOOL", 1),
})  # fmt: skip
"""As safetensors calls it, and its bytes, by the storage's class."""
_LEGACY: Final = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
"""How files of PyTorch before 1.6 begin: a pickle of a magic number."""
_MOST: Final = 16 << 20
"""Bytes of a pickle, which holds names and shapes and no numbers; and places that it may name."""
_BEFORE: Final = 3
"""Pickles before that of the dictionary in an old file: magic number, version and machine."""
_LOCAL: Final = struct.Struct("<26xHH")
"""The head of a file in an archive, which ends in the lengths of its name and of what follows."""


class _Storage(NamedTuple):
    dtype: str
    width: int
    key: str
    numel: int


class _Found(NamedTuple):
    """What `torch._utils._rebuild_tensor_v2` is called with."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that is a plain dictionary of them, by name; their numbers looked at.

    Raises:
        QlaunchError: exit 2: `model_incomplete` (nothing there), `model_corrupt` (cut short, or
            NaN in it), `model_unsupported` (it would call something else when it is read).
    """
    with os.fdopen(open_regular(path), "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise missing(path, "is empty")
        check_stand_in(path, file.read(len(POINTER)))
        file.seek(0)
        try:
            found = _tensors(path, file)
        except QlaunchError:
            raise
        except Exception as error:  # what is no pickle ends in any of a dozen
            raise broken(path, "is cut short, or PyTorch did not save it") from error
        for tensor in found.values():
            check_numbers(path, tensor, file)
        return found


def _tensors(path: Path, file: IO[bytes]) -> dict[str, Tensor]:
    """The dictionary's tensors, each with its place in the file."""
    if file.read(len(_LEGACY)) == _LEGACY:
        said, places = _of_before_1_6(path, file)
    else:
        said, places = _of_archive(path, file)
    if not isinstance(said, dict):
        raise broken(path, "is not a dictionary of tensors")
    other = next((name for name, one in said.items() if not isinstance(one, _Found)), None)
    if other is not None:
        raise broken(path, f"holds {shown(str(other))}, which is not a tensor")
    end = os.fstat(file.fileno()).st_size
    found = {str(name): _tensor(str(name), one, places) for name, one in said.items()}
    if any(tensor.end > end for tensor in found.values()):
        raise ValueError("a tensor beyond the file's end")
    return found


def _tensor(name: str, said: _Found, places: Mapping[str, tuple[int, int]]) -> Tensor:
    storage, shape, stride = said.storage, tuple(said.shape), tuple(said.stride)
    numbers = (said.offset, *shape, *stride)
    if len(shape) != len(stride) or not all(type(one) is int and one >= 0 for one in numbers):
        raise ValueError("a shape that is not of sizes")
    start, size = places[storage.key]
    steps = sum((many - 1) * step for many, step in zip(shape, stride, strict=True))
    last = said.offset + (0 if 0 in shape else steps + 1)
    if last * storage.width > size:
        raise ValueError("a tensor beyond its storage")
    begin, end = (start + at * storage.width for at in (said.offset, last))
    return Tensor(name, storage.dtype, shape, begin, end)


def _of_archive(path: Path, file: IO[bytes]) -> tuple[Any, dict[str, tuple[int, int]]]:
    """The dictionary of a file since 1.6, an archive; (begin, bytes) of each storage."""
    with zipfile.ZipFile(file) as archive:
        inside = {info.filename: info for info in archive.infolist()}
    pickled = next((name for name in inside if name.endswith("/data.pkl")), "data.pkl")
    begin, size = _place(file, inside[pickled])
    file.seek(begin)
    said = _read(path, BytesIO(file.read(min(size, _MOST))))
    folder = pickled.removesuffix("data.pkl") + "data/"
    places = {
        name.removeprefix(folder): _place(file, info)
        for name, info in inside.items()
        if name.startswith(folder)
    }
    return said, places


def _place(file: IO[bytes], info: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a file of an archive is: PyTorch compresses none, and may leave its checksum out."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError("compressed")
    file.seek(info.header_offset)
    name, more = _LOCAL.unpack(file.read(_LOCAL.size))
    return info.header_offset + _LOCAL.size + name + more, info.file_size


def _of_before_1_6(path: Path, file: IO[bytes]) -> tuple[Any, dict[str, tuple[int, int]]]:
    """The same of an old file: pickles, and behind them each storage after its length."""
    file.seek(0)
    for _ in range(_BEFORE):
        for _opcode in pickletools.genops(file):
            pass
    storages: dict[str, _Storage] = {}
    said = _read(path, file, storages)
    places = {}
    for key in _read(path, file):
        (count,) = struct.unpack("<q", file.read(8))
        begin, size = file.tell(), count * storages[key].width
        places[key] = begin, size
        file.seek(begin + size)
    return said, places


def _read(path: Path, stream: IO[bytes], storages: dict[str, _Storage] | None = None) -> Any:
    """What one pickle makes of stand-ins; the stream stands behind it then."""
    begin = stream.tell()
    for opcode, argument, _ in pickletools.genops(stream):
        if "PUT" in opcode.name and isinstance(argument, int) and argument > _MOST:
            raise ValueError("a place that would need gigabytes")
    stream.seek(begin)
    return _Reader(path, stream, {} if storages is None else storages).load()


class _Reader(pickle.Unpickler):  # noqa: S301 - it finds stand-ins only
    """Makes of a pickle what its tensors are made of."""

    def __init__(self, path: Path, stream: IO[bytes], storages: dict[str, _Storage]) -> None:
        super().__init__(stream)
        self._path, self._storages = path, storages

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for what a pickle names; anything else ends the reading."""
        called = f"{module} {name}"
        if called in _DTYPES:
            return _DTYPES[called]
        if called in _MAKERS:
            return _MAKERS[called]
        raise broken(
            self._path,
            f"calls {shown(called)} when it is read, which is not run",
            code="model_unsupported",
            fix="take the module's weights as model.safetensors",
        )

    def persistent_load(self, pid: Any) -> _Storage:
        """A storage, by what a pickle says of it."""
        _, (dtype, width), key, _, count, *_ = pid
        self._storages[str(key)] = storage = _Storage(dtype, width, str(key), count)
        return storage


def _tensor_of(
    storage: object, offset: object, shape: Sequence[int], stride: Sequence[int], *_: object
) -> _Found:
    return _Found(storage, offset, shape, stride)


def _parameter_of(data: object, *_: object) -> object:
    return data


_MAKERS: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "collections OrderedDict": OrderedDict,
        "torch._utils _rebuild_tensor_v2": _tensor_of,
        "torch._utils _rebuild_parameter": _parameter_of,
    }
)
"""What a dictionary of tensors is made with."""

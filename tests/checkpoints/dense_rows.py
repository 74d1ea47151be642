"""Encoders of the matrix whose Dense module has another activation, or weights of torch.save."""

from __future__ import annotations

import zipfile
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Final

from tests.checkpoints import make_bert
from tests.checkpoints.edit import Change, Stored, edited, read_tensors, setting
from tests.checkpoints.matrix import Row, Section
from tests.checkpoints.odd_edits import LEGACY, dense_bin
from tests.checkpoints.odd_rows import refused, served

_CONFIG: Final = "2_Dense/config.json"
_BIN: Final = "2_Dense/pytorch_model.bin"
_SOURCE: Final = "sentence-transformers, which saves any class of torch.nn by its path"
_CORRUPT, _UNSUPPORTED = "model_corrupt", "model_unsupported"
_STORAGES: Final = {"F32": "FloatStorage", "F16": "HalfStorage", "I8": "CharStorage"}
_dense = partial(make_bert, pooling="mean", dense=48)

Tensors = dict[str, Stored]


def activation(name: str) -> Change:
    """Another activation of the Dense module."""
    return setting(_CONFIG, activation_function=name)


def _text(said: str) -> bytes:
    return b"X" + len(said).to_bytes(4, "little") + said.encode()


def _whole(*numbers: int) -> bytes:
    """A tuple."""
    return b"(" + b"".join(b"J" + one.to_bytes(4, "little") for one in numbers) + b"t"


def pickled(tensors: Tensors, *, legacy: bool = False) -> bytes:
    """A dictionary of tensors as torch.save pickles it; each storage is called by its number."""
    view = b"N" if legacy else b""
    made = [b"\x80\x02}("]
    for key, (name, (dtype, shape, data)) in enumerate(tensors.items()):
        width = {"F32": 4, "F16": 2, "I8": 1}[dtype]
        said = _text("storage") + f"ctorch\n{_STORAGES[dtype]}\n".encode() + _text(str(key))
        count = (len(data) // width).to_bytes(4, "little")
        made += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n((", said, _text("cpu")]
        made += [b"J", count, view, b"tQJ", bytes(4), _whole(*shape)]
        made += [_whole(*shape[1:], 1), b"\x89"]
        made += [b"ccollections\nOrderedDict\n)RtR"]
    return b"".join((*made, b"u."))


def archive(tensors: Tensors, *, compressed: bool = False) -> bytes:
    """A file of torch.save since 1.6."""
    into = BytesIO()
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(into, "w", kind) as file:
        file.writestr("model/data.pkl", pickled(tensors))
        file.writestr("model/version", b"3\n")
        for key, (_, _, data) in enumerate(tensors.values()):
            file.writestr(f"model/data/{key}", data)
    return into.getvalue()


def before_1_6(tensors: Tensors) -> bytes:
    """The same of an older release."""
    said = b"\x80\x02" + b"}(" + _text("little_endian") + b"\x88u."
    keys = b"\x80\x02](" + b"".join(_text(str(key)) for key in range(len(tensors))) + b"e."
    made = [LEGACY, b"\x80\x02M\xe9\x03.", said, pickled(tensors, legacy=True), keys]
    for dtype, _, data in tensors.values():
        width = {"F32": 4, "F16": 2, "I8": 1}[dtype]
        made += [(len(data) // width).to_bytes(8, "little"), data]
    return b"".join(made)


def _changed(name: str, stored: Stored | None) -> Tensors:
    """What a Dense module of 64 by 48 holds, one tensor another."""
    zeros: Tensors = {
        "linear.weight": ("F32", (48, 64), bytes(4 * 48 * 64)),
        "linear.bias": ("F32", (48,), bytes(4 * 48)),
    }
    more = {} if stored is None else {name: stored}
    return {key: value for key, value in zeros.items() if key != name} | more


def _saved_by_torch(folder: Path, *, legacy: bool) -> None:
    """Store the Dense module's own tensors as torch.save does."""
    found = read_tensors(folder / "2_Dense" / "model.safetensors")
    dense_bin(before_1_6(found) if legacy else archive(found))(folder)


def _without_storage(folder: Path) -> None:
    """An archive whose last storage is not there: what a disk's end leaves of a copy by hand."""
    whole, into = zipfile.ZipFile(BytesIO(archive(_changed("", None)))), BytesIO()
    with zipfile.ZipFile(into, "w") as file:
        for name in whole.namelist()[:-1]:
            file.writestr(name, whole.read(name))
    dense_bin(into.getvalue())(folder)


_ACTIVATIONS = (
    *(
        served(
            f"dense-{name.lower()}",
            f"a Dense module with {name}",
            edited(partial(_dense, normalize=name != "Softmax"), activation(path)),
        )
        for name, path in (
            ("LeakyReLU", "torch.nn.modules.activation.LeakyReLU"),
            ("Mish", "torch.nn.modules.activation.Mish"),
            ("Softplus", "torch.nn.modules.activation.Softplus"),
            ("ELU", "torch.nn.ELU"),
            ("Softmax", "torch.nn.modules.activation.Softmax"),
        )
    ),
    *(
        Row(
            f"dense-{name.lower()}",
            f"a Dense module with {name}",
            _SOURCE,
            edited(_dense, activation(f"torch.nn.modules.activation.{name}")),
            (f"activation.{name}; it {why}",),
        )
        for name, why in (
            ("PReLU", "has weights of its own"),
            ("RReLU", "is random in training"),
            ("GLU", "halves the vector"),
            ("Threshold", "is made with arguments"),
        )
    ),
)
_WEIGHTS = (
    served(
        "dense-bin",
        "a Dense module as pytorch_model.bin",
        edited(_dense, partial(_saved_by_torch, legacy=False)),
    ),
    served(
        "dense-bin-legacy",
        "the same in the form of PyTorch before 1.6",
        edited(_dense, partial(_saved_by_torch, legacy=True)),
    ),
    *(
        refused(f"dense-bin-{name}", what, edited(_dense, dense_bin(data)), code, _BIN, says)
        for name, what, data, code, says in (
            (
                "nan",
                "NaN in a Dense module's pytorch_model.bin",
                archive(_changed("linear.bias", ("F32", (48,), b"\xff" * 4 * 48))),
                _CORRUPT,
                "NaN",
            ),
            (
                "nan-legacy",
                "the same in the form of PyTorch before 1.6",
                before_1_6(_changed("linear.bias", ("F32", (48,), b"\xff" * 4 * 48))),
                _CORRUPT,
                "NaN",
            ),
            (
                "turned",
                "a Dense module's pytorch_model.bin with rows for columns",
                archive(_changed("linear.weight", ("F32", (64, 48), bytes(4 * 48 * 64)))),
                _CORRUPT,
                "linear.weight in the shape (48, 64)",
            ),
            (
                "eight-bits",
                "a Dense module's pytorch_model.bin in 8 bits",
                archive(_changed("linear.weight", ("I8", (48, 64), bytes(48 * 64)))),
                _UNSUPPORTED,
                "as I8: it is quantised",
            ),
            (
                "without",
                "a Dense module's pytorch_model.bin without its bias",
                archive(_changed("linear.bias", None)),
                _CORRUPT,
                "linear.bias",
            ),
            (
                "more",
                "a Dense module's pytorch_model.bin with a PReLU's weight",
                archive(_changed("activation_function.weight", ("F32", (1,), bytes(4)))),
                _CORRUPT,
                "activation_function.weight",
            ),
            (
                "short",
                "a Dense module's pytorch_model.bin before 1.6, cut short",
                before_1_6(_changed("", None))[:-9],
                _CORRUPT,
                "cut short",
            ),
            (
                "narrow",
                "a tensor that is larger than its storage",
                archive(_changed("linear.bias", ("F32", (48,), bytes(4)))),
                _CORRUPT,
                "cut short",
            ),
            (
                "compressed",
                "an archive that something else than PyTorch wrote",
                archive(_changed("", None), compressed=True),
                _CORRUPT,
                "PyTorch did not save it",
            ),
        )
    ),
    refused(
        "dense-bin-storage",
        "an archive without one of its storages",
        edited(_dense, _without_storage),
        _CORRUPT,
        _BIN,
        "cut short",
    ),
)

SECTIONS = (
    Section("Dense modules: activations", "cpu-minilm", _ACTIVATIONS),
    Section("Dense modules: weights of torch.save", "cpu-minilm", _WEIGHTS),
)

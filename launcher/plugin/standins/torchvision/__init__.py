"""Lets torchvision import beside a CPU build of torch when its own compiled part does not load.

PyPI's torchvision is a CUDA build. Beside PyTorch's CPU build its operators are missing, and its
Python part fails at import, while it decorates `torchvision::nms` and `torchvision::qnms`. SGLang
imports torchvision at start but a text-embedding server never calls it. So: declare those two
schemas where they are missing, then hand over to the real package, under its own name and files.
"""

import importlib.machinery
import sys
from pathlib import Path

import torch

_HERE = Path(__file__).resolve().parent


def _declare(library: torch.library.Library, name: str, schema: str) -> None:
    if not hasattr(torch.ops.torchvision, name):
        library.define(f"{name}{schema}")


def _real_spec():
    elsewhere = [p for p in sys.path if Path(p or ".").resolve() != _HERE.parent]
    spec = importlib.machinery.PathFinder.find_spec("torchvision", elsewhere)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")
    return spec


def _compiled_part_loads(package: Path) -> bool:
    for library in sorted(package.glob("_C*.so")):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            return False
    return hasattr(torch.ops.torchvision, "nms")


_spec = _real_spec()
if not _compiled_part_loads(Path(_spec.origin).parent):
    _library = torch.library.Library("torchvision", "DEF")
    _declare(_library, "nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declare(
        _library,
        "qnms",
        "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    )

_module = sys.modules[__name__]
_module.__spec__ = _spec
_module.__file__ = _spec.origin
_module.__path__ = list(_spec.submodule_search_locations or ())
_spec.loader.exec_module(_module)

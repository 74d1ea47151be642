"""Stand-in for SGLang's compiled kernels on a card that they have no code for.

SGLang's CUDA branch imports names of `sgl_kernel` and of its submodules wherever it might call
them. A release without compiled kernels (`kernels: torch` in the catalogue) computes those layers
by PyTorch instead, so that the imports have to succeed and nothing is ever called; a call there is
all the same is an error that names the operator.

Unlike the stand-in for CPUs this one is a package: on a card SGLang takes its submodules
for granted. For one it has a substitute, which needs its absence: types of numbers, not operators.
"""

import importlib.abc
import importlib.machinery
import sys
import types

QLAUNCH_STANDIN = True
_ABSENT = f"{__name__}.scalar_type"
__version__ = "0.0.0+qlaunch.standin"


def _operator(module: str, name: str):
    # Dunder probes (__wrapped__, __signature__, …) must fail as on any module.
    if name.startswith("__"):
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    def missing(*_args, **_kwargs):
        raise NotImplementedError(
            f"sgl_kernel stand-in: operator {name} was called, but this engine has no compiled"
            " kernels; serve this model with another engine release"
        )

    missing.__name__ = missing.__qualname__ = name
    setattr(sys.modules[module], name, missing)
    return missing


class _Submodule(types.ModuleType):
    def __getattr__(self, name: str):
        return _operator(self.__name__, name)


class _Submodules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Every submodule of the package, however deep."""

    def find_spec(self, name, path=None, target=None):  # noqa: ARG002 - as the import system calls it
        if not name.startswith(f"{__name__}.") or name == _ABSENT:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return _Submodule(spec.name)

    def exec_module(self, module):
        module.__path__ = []


def __getattr__(name: str):
    return _operator(__name__, name)


sys.meta_path.insert(0, _Submodules())

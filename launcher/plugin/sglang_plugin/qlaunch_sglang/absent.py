"""Stands in for packages that SGLang imports at its start, and that nothing enters on a CPU.

Triton decorates kernels and annotates their parameters everywhere: 73 MB of a process, and none of
it runs on a CPU, where the real one finds no driver either. torchvision is for pictures, and brings
PyTorch's exporters and sympy; IPython is for notebooks. What is asked of them while modules are
executed (a decorator, a type, a constant) is answered by a name that can be used for nothing else.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.metadata
import sys

PACKAGES = ("triton", "torchvision", "IPython")


def install():
    """Answer imports of these packages from now on, of those that are not there already."""
    names = frozenset(PACKAGES).difference(sys.modules)
    sys.meta_path.insert(0, _Finder(names))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, packages):
        self._packages = packages

    def find_spec(self, name, _path=None, _target=None):
        """A spec of ours for these packages and all their modules."""
        if name.partition(".")[0] not in self._packages:
            return None
        return importlib.machinery.ModuleSpec(name, _Loader(), is_package=True)


class _Loader(importlib.abc.Loader):
    def create_module(self, _spec):
        return None

    def exec_module(self, module):
        module.__getattr__ = functools.partial(_of_module, module.__name__)


def _of_module(module, name):
    if name == "__version__":
        return importlib.metadata.version(module)
    if name.startswith("__"):
        raise AttributeError(name)
    return _Name(f"{module}.{name}")


class _Name:
    """Any name of an absent package: a decorator, a type, a constant."""

    def __init__(self, name):
        self._name = name

    def __repr__(self):
        return f"<{self._name}, which an embedding server on a CPU has not>"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "active":  # of `triton.runtime.driver`, in the real one's words
            raise RuntimeError("0 active drivers ([]). There should only be one.")
        return _Name(f"{self._name}.{name}")

    def __call__(self, *args, **kwargs):
        decorated = args[0] if len(args) == 1 and not kwargs else None
        if callable(decorated) and not isinstance(decorated, _Name):
            return functools.wraps(decorated)(_Kernel(decorated))
        return _Name(f"{self._name}(…)")

    def __getitem__(self, _key):
        return self

    def __iter__(self):
        return iter(())  # or Python would ask for item after item, without an end

    def __or__(self, _other):
        return self

    __ror__ = __or__

    def __mro_entries__(self, _bases):
        return (object,)


class _Kernel:
    """A decorated function."""

    def __init__(self, function):
        self.fn = function

    def __getitem__(self, _grid):
        return self

    def __call__(self, *_args, **_kwargs):
        raise RuntimeError(f"{self.fn.__name__} is a kernel of Triton, which runs on no CPU")

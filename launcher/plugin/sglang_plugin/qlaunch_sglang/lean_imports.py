"""What an embedding server never enters is not imported before it is entered.

Installed before the engine imports anything (`sitecustomize`). transformers' losses, which only
training reads, bring scipy's optimisers and torchvision's image functions with them: a stand-in
takes the place of their table, and reads the real one when it is looked into.

`QLAUNCH_IMPORTS=all` in a profile's `env` turns it off.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys

VARIABLE = "QLAUNCH_IMPORTS"
_LOSSES = "transformers.loss.loss_utils"


def install():
    """Watch imports from now on; imports nothing itself."""
    if os.environ.get(VARIABLE) != "all":
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self):
        self._looking = False

    def find_spec(self, name, _path=None, _target=None):
        """A spec of ours for the losses; None for all else."""
        if self._looking or name != _LOSSES:
            return None
        self._looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking = False
        if spec is None or spec.loader is None:
            return None
        spec.loader = _Losses(spec.loader)
        return spec


class _Losses(importlib.abc.Loader):
    """`LOSS_MAPPING` alone; whoever wants more, or looks into it, gets the real module's."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        real = functools.cache(lambda: self._real(module))
        module.LOSS_MAPPING = _Table(real)
        module.__getattr__ = functools.partial(_of_real, real)

    def _real(self, stand_in):
        spec = importlib.machinery.ModuleSpec(
            _LOSSES, self._loader, origin=stand_in.__spec__.origin
        )
        spec.has_location = True
        module = importlib.util.module_from_spec(spec)
        self._loader.exec_module(module)
        return module


def _of_real(real, name):
    if name.startswith("__"):  # asked for by import machinery itself
        raise AttributeError(name)
    return getattr(real(), name)


class _Table:
    """A mapping that is read when it is first looked into."""

    def __init__(self, real):
        self._real = real

    def __contains__(self, name):
        return name in self._real().LOSS_MAPPING

    def __getitem__(self, name):
        return self._real().LOSS_MAPPING[name]

    def __iter__(self):
        return iter(self._real().LOSS_MAPPING)

    def __len__(self):
        return len(self._real().LOSS_MAPPING)

    def __setitem__(self, name, value):
        self._real().LOSS_MAPPING[name] = value

    def get(self, name, default=None):
        return self._real().LOSS_MAPPING.get(name, default)

    def update(self, *args, **kwargs):
        self._real().LOSS_MAPPING.update(*args, **kwargs)

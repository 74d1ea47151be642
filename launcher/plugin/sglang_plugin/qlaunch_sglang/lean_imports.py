"""What an embedding server never enters is not imported before it is entered.

Installed before the engine imports anything (`sitecustomize`). Three means, each for what bears it:

- A module is *deferred*: a few of its names have stand-ins, and whoever wants another name gets the
  real module, executed then. transformers' losses (which only training reads) bring scipy's
  optimisers and torchvision's image functions; PyTorch's compiler is imported to mark functions
  that it must not touch.
- A function is *answered* as for a machine that has less: transformers' own sharded loading brings
  distributed tensors and sympy, and the engine shards by itself.
- On a CPU Triton's kernels are decorated and never run; pictures and notebooks there are
  none (`absent`).

The last two, and PyTorch's compiler, are only left out where the engine serves on a CPU and was not
told `--enable-torch-compile`. What transformers finds out by reading all its models is kept besides
(`model_listing`). `QLAUNCH_IMPORTS=all` in a profile's `env` turns everything off.
"""

import functools
import importlib.abc
import importlib.util
import os
import sys
import threading
import types

VARIABLE = "QLAUNCH_IMPORTS"
COMPILES = "--enable-torch-compile"
_LOSSES = "transformers.loss.loss_utils"
_COMPILER = "torch._dynamo"
_TRACE = f"{_COMPILER}._trace_wrapped_higher_order_op"
_SHAPES = "torch.fx.experimental.symbolic_shapes"
"""Shapes that only a compiler knows by symbols, for which it brings sympy."""
_PARALLEL = "sglang.srt.layers.model_parallel"
"""PyTorch's own tensor parallelism: distributed tensors."""
_VOCABULARIES = "gguf.vocab"
_SPEECH = "sglang.srt.entrypoints.openai.realtime"
"""Transcriptions over a WebSocket, which the guard closes."""
_UTILS = "transformers.utils.import_utils"
_MARKS = ("disable", "assume_constant_result", "allow_in_graph")
"""Decorators that only the compiler would read."""
_lock = threading.RLock()


def install():
    """Watch imports from now on; imports nothing itself."""
    if os.environ.get(VARIABLE) == "all":
        return
    deferred, changed = {_LOSSES: _losses}, {_UTILS: _listed}
    if serves_on_cpu() and COMPILES not in sys.orig_argv:
        from qlaunch_sglang import absent

        absent.install()
        deferred |= {
            _COMPILER: _compiler,
            _TRACE: _trace,
            _SHAPES: functools.partial(_late_ones, ("guard_or_false", "guard_or_true")),
            _PARALLEL: functools.partial(_late_ones, ("apply_torch_tp",)),
            _VOCABULARIES: _nothing,
            _SPEECH: functools.partial(_late_ones, ("handle_realtime_transcription",)),
        }
        changed = {"torch": _never_compiles, _UTILS: _not_distributed}
    sys.meta_path.insert(0, _Finder(deferred, changed))


def serves_on_cpu():
    """Whether this is an engine that the launcher starts for a CPU."""
    return os.environ.get("SGLANG_USE_CPU_ENGINE") == "1"


class _Finder(importlib.abc.MetaPathFinder):
    """Gives the modules of two tables loaders of ours.

    Args:
        deferred: name → a function of `real` (which executes the module and returns it) that
            gives the stand-ins, by name.
        changed: name → a function that is called with the module when it has been imported.
    """

    def __init__(self, deferred, changed):
        self._deferred, self._changed = deferred, changed
        self._looking = threading.local()

    def find_spec(self, name, _path=None, _target=None):
        """A spec of ours for what is in the tables; None for all else."""
        ours = name in self._deferred or name in self._changed
        if not ours or getattr(self._looking, "now", False):
            return None
        self._looking.now = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking.now = False
        if spec is None or spec.loader is None:
            return None
        if name in self._deferred:
            spec.loader = _Deferring(spec.loader, self._deferred[name])
        else:
            spec.loader = _Changing(spec.loader, self._changed[name])
        return spec


class _Wrapping(importlib.abc.Loader):
    """A loader around the real one, which answers for all that is not asked of it here."""

    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def __getattr__(self, name):
        return getattr(self._loader, name)


class _Changing(_Wrapping):
    def __init__(self, loader, change):
        super().__init__(loader)
        self._change = change

    def exec_module(self, module):
        self._loader.exec_module(module)
        self._change(module)


class _Deferring(_Wrapping):
    def __init__(self, loader, stand_ins):
        super().__init__(loader)
        self._stand_ins = stand_ins

    def exec_module(self, module):
        module.__class__ = _Deferred
        module.__dict__.update(self._stand_ins(functools.partial(_real, module)), _of=self._loader)


class _Deferred(types.ModuleType):
    """A module with stand-ins alone, until another of its names is asked for."""

    def __getattr__(self, name):
        # What import machinery itself asks of any module is no reason to execute it.
        if name.startswith("__") and name not in ("__all__", "__version__"):
            raise AttributeError(name)
        return getattr(_real(self), name)


def _real(module):
    """Execute a deferred module, once; its own names take the places of the stand-ins."""
    with _lock:
        loader = module.__dict__.pop("_of", None)
        if loader is not None:
            module.__class__ = types.ModuleType
            loader.exec_module(module)
    return module


def _late(real, name):
    """A stand-in for a class or a function, looked up when it is called."""

    def call(*args, **kwargs):
        return getattr(real(), name)(*args, **kwargs)

    call.__name__ = call.__qualname__ = name
    return call


# Deferred ---------------------------------------------------------------------------------------


def _losses(real):
    return {"LOSS_MAPPING": _Table(real)}


def _compiler(_real):
    # A process group that begins or ends has the compiler forget what it knows of functions.
    rules = types.SimpleNamespace(clear_lru_cache=lambda: None)
    return {"trace_rules": rules, **dict.fromkeys(_MARKS, _as_it_is)}


def _trace(real):
    return {"TransformGetItemToIndex": _late(real, "TransformGetItemToIndex")}


def _late_ones(names, real):
    return {name: _late(real, name) for name in names}


def _nothing(_real):
    """Of gguf's vocabularies, which bring Mistral's tokenizers: `from .vocab import *` is empty."""
    return {"__all__": []}


class _Table:
    """A mapping that is read when it is first looked into."""

    def __init__(self, real):
        self._real = lambda: real().LOSS_MAPPING

    def __contains__(self, name):
        return name in self._real()

    def __getitem__(self, name):
        return self._real()[name]

    def __iter__(self):
        return iter(self._real())

    def __len__(self):
        return len(self._real())

    def __setitem__(self, name, value):
        self._real()[name] = value

    def get(self, name, default=None):
        return self._real().get(name, default)

    def update(self, *args, **kwargs):
        self._real().update(*args, **kwargs)


# Changed ----------------------------------------------------------------------------------------


def _as_it_is(function=None, *_args, **_kwargs):
    """A decorator, with or without arguments, that leaves what it decorates as it is."""
    return _as_it_is if function is None else function


def _never_compiles(torch):
    """Functions that are marked to be compiled stay what they are: their results are the same.

    Compiling for a CPU needs a C++ compiler besides, which a server rarely has.
    """
    torch.compile = _as_it_is
    for mark in _MARKS:
        setattr(torch.compiler, mark, _as_it_is)


def _listed(utils):
    from qlaunch_sglang import model_listing

    model_listing.keep(utils)


def _not_distributed(utils):
    """transformers loads no sharded model here, and attends by none of PyTorch's flex kernels."""
    _listed(utils)
    utils.is_torch_distributed_available = utils.is_torch_flex_attn_available = lambda: False

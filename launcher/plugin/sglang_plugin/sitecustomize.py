"""Runs at the start of every Python in the engine: a calmer garbage collector while it imports.

Importing SGLang creates millions of objects that all stay, and the collector goes over them again
and again: a fifth of the import. Its threshold is raised here and put back when the imports are
done (`qlaunch_sglang.register`). What an embedding server never enters is left out of them
(`qlaunch_sglang.lean_imports`). Where another `sitecustomize` comes later on the path, it still
runs.
"""

import gc
import os
import sys


def _calm() -> None:
    if "QLAUNCH_START_METHOD" in os.environ:
        gc.set_threshold(200_000, 20, 100)


def _lean() -> None:
    if "QLAUNCH_START_METHOD" in os.environ:
        from qlaunch_sglang import lean_imports

        lean_imports.install()


def _next_one() -> None:
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.dirname(os.path.abspath(__file__))
    paths = [os.path.abspath(path or ".") for path in sys.path]
    later = sys.path[paths.index(here) + 1 :] if here in paths else []
    spec = PathFinder.find_spec("sitecustomize", later)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


_calm()
_lean()
_next_one()

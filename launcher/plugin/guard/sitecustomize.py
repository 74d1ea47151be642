"""Runs at the start of every Python in the engine: puts qlaunch's guard before its HTTP handlers.

Nothing happens without REQUEST_GUARD in the environment. Where another `sitecustomize` comes later
on the path, it still runs.
"""

import os
import sys


def _install():
    if os.environ.get("REQUEST_GUARD"):
        import qlaunch_guard

        qlaunch_guard.install()


def _next_one():
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    here = os.path.dirname(os.path.abspath(__file__))
    paths = [os.path.abspath(path or ".") for path in sys.path]
    later = sys.path[paths.index(here) + 1 :] if here in paths else []
    spec = PathFinder.find_spec("sitecustomize", later)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


_install()
_next_one()

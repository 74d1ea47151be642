"""The guard before SGLang's handlers: an ASGI layer inside the engine's front.

SGLang's server answers dozens of routes, some of which replace its weights or write files, trusts
every origin, and passes on requests that end its scheduler. What an embedding service needs is
reachable here, within the limits that qlaunch's plan gives in REQUEST_GUARD (JSON); everything
else is refused before SGLang sees it.

The way in is the same for every release, and in every process that serves HTTP: FastAPI's
application class is wrapped when it is imported, whatever server calls it and whatever app it is.
The launcher puts this folder on the engine's PYTHONPATH, and takes no engine for ready whose
answers lack the guard's header. Nothing of the launcher is imported here.
"""

import importlib.abc
import importlib.util
import os
import secrets
import sys

VARIABLE = "REQUEST_GUARD"
"""Holds the settings; without it no process is guarded."""
OWN = "REQUEST_GUARD_OWN"
"""Holds a word known to the engine's processes alone: its front asks itself over HTTP."""


def install():
    """Wrap what serves HTTP as soon as it is imported; imports nothing now."""
    os.environ.setdefault(OWN, secrets.token_hex(16))
    sys.meta_path.insert(0, _Watcher())


class _Watcher(importlib.abc.MetaPathFinder):
    """Finds nothing by itself: lets the others find, and acts when the module has been run."""

    def __init__(self):
        self._looking = False

    def find_spec(self, name, _path=None, _target=None):
        """The module's own spec, with our step after its loader."""
        if name not in _AFTER or self._looking:
            return None
        self._looking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking = False
        if spec is None or spec.loader is None:
            return None
        spec.loader = _Loader(spec.loader, _AFTER[name])
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader, after):
        self._loader = loader
        self._after = after

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        self._after(module)

    def __getattr__(self, name):
        return getattr(self._loader, name)


def _fastapi(module):
    from qlaunch_guard.asgi import Guard
    from qlaunch_guard.settings import read

    guard = Guard(read(os.environ[VARIABLE]), os.environ[OWN], os.environ.get("QLAUNCH_RUN"))
    guard.wrap(module.FastAPI)


def _requests(module):
    from qlaunch_guard.own import sign

    sign(module.Session, os.environ[OWN])


def _rendezvous(module):
    from qlaunch_guard.store import keep_local

    keep_local(module)


def _uvicorn(module):
    from qlaunch_guard.idle import reap

    reap(module.Server)


def _http(name):
    def after(module):
        from qlaunch_guard.malformed import told_in_json

        told_in_json(getattr(module, name))

    return after


def _tokenizer(module):
    from qlaunch_guard.settings import read
    from qlaunch_guard.tokens import bound

    bound(module.TokenizerManager, read(os.environ[VARIABLE]).vocabulary)


_AFTER = {
    "fastapi.applications": _fastapi,
    "requests.sessions": _requests,
    "sglang.srt.managers.tokenizer_manager": _tokenizer,
    "torch.distributed.rendezvous": _rendezvous,
    "uvicorn.protocols.http.h11_impl": _http("H11Protocol"),
    "uvicorn.protocols.http.httptools_impl": _http("HttpToolsProtocol"),
    "uvicorn.server": _uvicorn,
}

"""The front freezes its heap when it can be asked to.

SGLang's front asks itself over HTTP to take what is there for good out of garbage collection, when
its warm-up is over. Without a warm-up (`--skip-server-warmup`) that is before it listens: nothing
is frozen, and a traceback of sixty lines stands in the log of a sound start.
"""

import socket
import sys
import threading
import time
from urllib.parse import urlsplit

_TARGET = "sglang.srt.entrypoints.engine._set_envs_and_config"
_SERVER = "sglang.srt.entrypoints.http_server"
_FREEZE = "_freeze_gc_after_server_warmup"
LIMIT_S = 30.0
"""Longest that is waited; SGLang then tries, and says what is wrong."""
LOOK_S = 0.02


def register() -> None:
    """Hook the place where the front sets itself up, with its server imported."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(_TARGET, _around, HookType.AROUND)


def _around(original, *args, **kwargs):
    server = sys.modules.get(_SERVER)
    freeze = getattr(server, _FREEZE, None)
    if freeze is not None and not isinstance(freeze, _Timely):
        setattr(server, _FREEZE, _Timely(freeze))
    return original(*args, **kwargs)


class _Timely:
    """SGLang's function, called when the front listens; a thread of its own calls it."""

    def __init__(self, freeze):
        self._freeze = freeze

    def __call__(self, server_args):
        wait_for(urlsplit(server_args.url()))
        return self._freeze(server_args)


def wait_for(url) -> None:
    """Return when something listens there, this process ends, or the limit is reached."""
    until = time.monotonic() + LIMIT_S
    while time.monotonic() < until and threading.main_thread().is_alive():
        try:
            socket.create_connection((url.hostname, url.port), LOOK_S).close()
        except OSError:
            time.sleep(LOOK_S)
        else:
            return

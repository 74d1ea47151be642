"""Starts an SGLang too old for both ways in (0.5.1.post2), with our model classes registered.

Its documentation's own way to add a model from outside: put the class into `ModelRegistry.models`
before the server is launched. The server's scheduler is a spawned process, in which
`multiprocessing` imports this module again, as `__mp_main__`; the registry that counts is the one
there. Everything else is SGLang's own `launch_server`.
"""

import importlib
import logging
import os
import pkgutil
import runpy

logger = logging.getLogger(__name__)


def register_models(package_name: str) -> None:
    """Put the `EntryClass`es of a package's modules over SGLang's classes of the same names."""
    from sglang.srt.models.registry import ModelRegistry

    package = importlib.import_module(package_name)
    for found in pkgutil.iter_modules(package.__path__, f"{package_name}."):
        entry = getattr(importlib.import_module(found.name), "EntryClass", [])
        for model in entry if isinstance(entry, list) else [entry]:
            ModelRegistry.models[model.__name__] = model


if __name__ == "__mp_main__" and (_package := os.environ.get("SGLANG_EXTERNAL_MODEL_PACKAGE")):
    try:
        register_models(_package)
    except Exception:
        # SGLang's own classes then serve; the smoke tells whether their vectors are right.
        logger.exception("qlaunch: the classes of %s are not registered", _package)
elif __name__ == "__main__":
    # Not altering sys.modules keeps this module the main one, which the children import.
    runpy.run_module("sglang.launch_server", run_name="__main__", alter_sys=False)

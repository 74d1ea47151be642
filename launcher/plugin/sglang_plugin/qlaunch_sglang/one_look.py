"""One look at all modules for all hooks, instead of one for each.

After each function that it wraps, SGLang's plugin framework goes through every name of every module
for copies of it (`from module import function`). That is a quarter of a million names, a dozen
times. Here the copies of all are replaced together, once the last function is wrapped.
"""

import sys
import types


def register() -> None:
    """Have the hooks of this round of `load_plugins` applied so; nothing where SGLang differs."""
    from sglang.srt.plugins import hook_registry

    registry = getattr(hook_registry, "HookRegistry", None)
    apply = getattr(registry, "apply_hooks", None)
    one_by_one = getattr(hook_registry, "_propagate_patch", None)
    if apply is None or one_by_one is None:
        return
    wrapped = {}

    def note(original, replacement, source):
        wrapped[id(original)] = (original, replacement, source)
        return 0

    def apply_hooks(*args, **kwargs):
        registry.apply_hooks, hook_registry._propagate_patch = apply, note
        try:
            return apply(*args, **kwargs)
        finally:
            hook_registry._propagate_patch = one_by_one
            replace_copies(wrapped)

    registry.apply_hooks = apply_hooks


def replace_copies(wrapped) -> None:
    """Put each replacement where a module other than its source holds the original.

    `wrapped`: by the original's identity: the original, its replacement, and where it came from.
    """
    for module in list(sys.modules.values()):
        if not isinstance(module, types.ModuleType):
            continue
        for name, value in list(vars(module).items()):
            found = wrapped.get(id(value))
            if found is not None and found[0] is value and found[2] is not module:
                setattr(module, name, found[1])

"""Stand-in: the names that SGLang 0.5.1's CPU branch imports; none may be called."""


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_args, **_kwargs):
        raise NotImplementedError(f"vllm stand-in: {name} was called")

    return missing

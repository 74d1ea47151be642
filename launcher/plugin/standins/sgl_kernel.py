"""Stand-in for SGLang's compiled kernels, of which PyPI has no CPU build.

From 0.5.16 on SGLang imports `sgl_kernel` on every device, but an embedding server on a CPU without
AMX never calls it: attention, norms and linear layers all take their PyTorch paths. This module
makes the imports succeed, and turns the first call, should there ever be one, into an error that
names the operator.

It is a plain module: `import sgl_kernel.anything` fails as it would without the kernels, since
SGLang has its own substitutes for those (`sgl_kernel.scalar_type`). Nor are operators registered
with `torch.ops.sgl_kernel`: SGLang probes those to find AMX kernels, and there are none.
"""

QLAUNCH_STANDIN = True
__version__ = "0.0.0+qlaunch.standin"


def __getattr__(name: str):
    # Dunder probes (__path__, __wrapped__, …) must fail as on any module, or importlib, inspect and
    # torch take the stand-in for something it is not.
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def missing(*_args, **_kwargs):
        raise NotImplementedError(
            f"sgl_kernel stand-in: operator {name} was called, but this engine has no compiled "
            "CPU kernels; serve this model with another engine release"
        )

    missing.__name__ = missing.__qualname__ = name
    globals()[name] = missing
    return missing

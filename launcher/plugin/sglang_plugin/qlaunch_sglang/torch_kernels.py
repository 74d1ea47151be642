"""A card without compiled kernels: what SGLang would compile for it on the spot is left to PyTorch.

A release of the catalogue with `kernels: torch` has neither SGLang's compiled operators nor a
compiler. SGLang's own switch (SGLANG_FORCE_FUSED_OP_BACKEND, which the launcher sets) sends every
layer to its PyTorch code; the norms of queries and keys are fused outside of those layers, and are
told here that there is no kernel for them. SGLang would find that out itself, by a compilation that
fails for every layer's first call.
"""

import logging
import os

logger = logging.getLogger(__name__)

VARIABLE = "QLAUNCH_KERNELS"


def wanted() -> bool:
    """Whether the launcher says that this engine has no compiled kernels."""
    return os.environ.get(VARIABLE) == "torch"


def register() -> None:
    """Say so to what does not listen to SGLang's switch."""
    if not wanted():
        return
    from sglang.srt.models import utils

    utils.can_use_fused_inplace_qknorm = _no
    logger.info("qlaunch: every layer is computed by PyTorch: this engine has no compiled kernels")


def _no(*_args, **_kwargs) -> bool:
    return False

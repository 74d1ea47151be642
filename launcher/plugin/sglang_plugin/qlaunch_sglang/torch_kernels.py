"""A card without compiled kernels: what SGLang would compile for it on the spot is left to PyTorch.

A release of the catalogue with `kernels: torch` has neither SGLang's compiled operators nor a
compiler. SGLang's own switch (SGLANG_FORCE_FUSED_OP_BACKEND, which the launcher sets) sends every
layer to its PyTorch code; the norms of queries and keys are fused outside of those layers, and are
told here that there is no kernel for them. SGLang would find that out itself, by a compilation that
fails for every layer's first call. What multiplies gate and up at once, on Blackwell alone, is not
asked for either: asking imports a compiler that this engine has not, on any card.
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
    _without_dual_gemm()
    logger.info("qlaunch: every layer is computed by PyTorch: this engine has no compiled kernels")


def _without_dual_gemm() -> None:
    try:
        from sglang.srt.layers.dual_gemm import DualGemm
    except ImportError:  # before 0.5.23
        return
    DualGemm._select_mode = _none


def _none(*_args, **_kwargs) -> None:
    return None


def _no(*_args, **_kwargs) -> bool:
    return False

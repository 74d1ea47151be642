"""What still counts as the same vector, by the dtype the engine serves in.

A cosine says how far rounding turned a vector; it does not see its length. Each figure below is a
line between rounding and a fault, and says where it comes from.
"""

from __future__ import annotations

import math

SMALL_LOSS_MIN = 0.99
"""Below this a cosine is no longer explained by rounding: the nearest fault measured, another
pooling of the same hidden states, gave at most 0.82 with MiniLM."""

_FLOAT32 = frozenset({"float32", "fp32", "float"})


def parity_min(dtype: str) -> float:
    """Least cosine with the float32 reference that passes when the engine serves in `dtype`.

    bfloat16 and float16: 0.999. Measured on SGLang 0.5.14 and 0.5.23 with MiniLM in bfloat16: the
    worst of 13 texts, alone, again, batched and reversed, had 0.99988; a tiny Qwen3 0.99996. A
    wrong pooling or a stale prefix cache gave 0.25 to 0.88, so 0.999 divides the two with room on
    both sides. float32: 0.9999, since only the order of additions may differ there. int8 (the
    plugin's, on a CPU): 0.99; the worst of MiniLM's texts had 0.9948, and no fault came near. Any
    other dtype, `auto` and the engine's quantised ones included, is held to the 16-bit figure
    until one is measured.
    """
    if dtype == "int8":
        return SMALL_LOSS_MIN
    return 0.9999 if dtype in _FLOAT32 else 0.999


def same_min(dtype: str) -> float:
    """Least cosine between two answers to the same text (batched, alone, asked again).

    The same figures as `parity_min`: both vectors carry the rounding of one dtype, so they may be
    as far from each other as from the reference, and no farther. int8 is the exception: its scales
    do not depend on a batch, so its answers differ no more than those of the 16-bit sums between.
    """
    return 0.999 if dtype == "int8" else parity_min(dtype)


def clear_margin(dtype: str) -> float:
    """Difference of two cosines from which on a model tells two texts apart, whatever the rounding.

    The length of the error that `parity_min` lets pass, √(2 − 2c): along the difference of two
    texts at a right angle it would turn the order of a smaller one. MiniLM, an English model, has
    0.009 between the Chinese texts of the smoke; in int8 one processor's rounding kept their order
    and another's (AMX) did not. Its English ones have 0.57 and 0.70.
    """
    return math.sqrt(2 - 2 * parity_min(dtype))


def norm_tolerance(dtype: str) -> float:
    """How far the length of a normalised vector may be from 1.

    Rounding an element to bfloat16 changes it by at most 2^-9 of itself (8 significant bits), so
    the length by at most 0.002; dividing by a rounded norm adds as much again. Measured on SGLang
    0.5.23, MiniLM in bfloat16, its own pooler: 0.0035. 0.01 leaves room, and is still far from
    what an engine returns that does not normalise. float32 rounds 2^-24; 1e-4 covers its sums.
    """
    return 1e-4 if dtype in _FLOAT32 else 1e-2

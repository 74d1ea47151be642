"""Instruction sets that the environment hides from the libraries which compute.

oneDNN (linear layers in bfloat16 and int8) and PyTorch's own kernels each look at the processor and
then at a variable that keeps them below what it has: to compare machines, to work round a fault, or
to try here what a machine with less would do. What is hidden is not usable, so plans must not count
on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

ONEDNN: Final = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""oneDNN reads the first; the second, its name before version 2.4, where the first is not set."""
ATEN: Final = "ATEN_CPU_CAPABILITY"

_AVX: Final = ("avx", "f16c", "fma")
_AVX2: Final = ("avx2", "bmi1", "bmi2")
_AVX_VNNI: Final = ("avx_vnni",)
_AVX_VNNI_2: Final = ("avx_vnni_int8", "avx_ne_convert")
_VNNI: Final = ("avx512_vnni",)
_BF16: Final = ("avx512_bf16",)
_FP16: Final = ("avx512_fp16",)
_AMX: Final = ("amx_tile", "amx_int8", "amx_bf16")
_LATER: Final = ("amx_fp16", "amx_complex", "avx10_1", "avx10_2")
_UPPER: Final = (*_VNNI, *_BF16, *_FP16, *_AMX, *_LATER)
_WIDE: Final = "avx512"
"""Begins every flag of AVX-512."""

_HIDDEN: Final[Mapping[str, tuple[str, ...]]] = {
    "sse41": (*_AVX, *_AVX2, *_AVX_VNNI, *_AVX_VNNI_2, _WIDE, *_UPPER),
    "avx": (*_AVX2, *_AVX_VNNI, *_AVX_VNNI_2, _WIDE, *_UPPER),
    "avx2": (*_AVX_VNNI, *_AVX_VNNI_2, _WIDE, *_UPPER),
    "avx2_vnni": (*_AVX_VNNI_2, _WIDE, *_UPPER),
    "avx2_vnni_2": (_WIDE, *_UPPER),
    "avx512_core": (*_AVX_VNNI, *_AVX_VNNI_2, *_UPPER),
    "avx512_core_vnni": (*_AVX_VNNI, *_AVX_VNNI_2, *_BF16, *_FP16, *_AMX, *_LATER),
    "avx512_core_bf16": (*_AVX_VNNI, *_AVX_VNNI_2, *_FP16, *_AMX, *_LATER),
    "avx512_core_fp16": (*_AVX_VNNI_2, *_AMX, *_LATER),
    "avx10_1_512": (*_AMX, *_LATER),
    "avx512_core_amx": _LATER,
}
"""Flags of /proc/cpuinfo that oneDNN does not use below each of its levels (its developer's guide,
"CPU Dispatcher Control"). Levels that are not here, `default` and `all` among them, hide nothing
that we look at; a word that is no level is ignored by oneDNN too."""

_KERNELS: Final[Mapping[str, tuple[str, ...]]] = {
    "avx2": (_WIDE,),
    "default": (_WIDE, "avx2"),
}
"""What PyTorch's own kernels leave unused; lower case only, anything else it ignores."""


def hidden(
    flags: Iterable[str], machine: str, environ: Mapping[str, str]
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Of `flags`, those that oneDNN may not use; and every variable that hides something.

    Args:
        flags: as /proc/cpuinfo prints them.
        machine: `platform.machine()`. On others than x86-64 nothing is hidden: oneDNN's levels
            have other names there, and none of them ends bfloat16.
        environ: where the variables are looked up.

    `ATEN_CPU_CAPABILITY` alone hides no flag: bfloat16 and int8 are oneDNN's, at full speed. It is
    among the variables all the same.
    """
    if machine != "x86_64":
        return frozenset(), ()
    known = frozenset(flags)
    name = next((each for each in ONEDNN if environ.get(each)), ONEDNN[0])
    level = environ.get(name, "")
    taken = _matching(known, _HIDDEN.get(level.lower(), ()))
    variables = [f"{name}={level}"] if taken else []
    if _matching(known, _KERNELS.get(environ.get(ATEN, ""), ())):
        variables.append(f"{ATEN}={environ[ATEN]}")
    return taken, tuple(variables)


def _matching(known: frozenset[str], hides: tuple[str, ...]) -> frozenset[str]:
    wide = _WIDE in hides
    return frozenset(flag for flag in known if flag in hides or (wide and flag.startswith(_WIDE)))

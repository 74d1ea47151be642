"""What a CUDA engine takes beside weights, cache and batch. Pure; bytes.

Measured once: SGLang 0.5.23 (torch 2.14.1, CUDA 13, driver 580) on an H100 80GB with 16 processor
cores, with and without compiled kernels, GPU memory by process (NVML), RAM as PSS, until verified.
For other cards and releases the driver's own part is estimated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from launcher.units import MIB

MEASURED_VERSION: Final = "0.5.23"
MEASURED_CAPABILITY: Final = (9, 0)
CONTEXT_BYTES: Final = 696 * MIB
"""The driver's context and NCCL's: what was gone of an H100 before the weights were loaded."""
OTHER_CONTEXT_BYTES: Final = 512 * MIB
"""The same on cards that we have not measured; it grows with a card's multiprocessors, and 0.4 to
0.7 GiB is what operators commonly report."""
ENCODER_BYTES: Final = 172 * MIB
"""Handles and workspaces of libraries, loaded kernels, the allocator's slack: MiniLM took 1,099 and
1,109 MB, of which 202 were computed."""
DECODER_BYTES: Final = 350 * MIB
"""The same of Qwen3-0.6B's shape, without graphs: 1,079 MB less the context, and some room."""
HOST_BYTES: Final = 3_700_000_000
"""RAM of the engine's processes: 3.13 to 3.51 GB until verified, 3.69 where a kernel's compilation
failed."""
OTHER_HOST_BYTES: Final = 6_000 * MIB
"""The same of releases that we have not run on a card. Estimated."""
GRAPH_TOKENS: Final = 8192
"""SGLang's own largest captured prefill on a large card, where no chunk is given."""
GRAPH_SHARE: Final = 2.25
"""Bytes a captured token by what it holds at once in one layer: 0.80 GiB for 8192 tokens of
Qwen3-0.6B's shape, whose layer holds 47.1 kB a token."""
NO_GRAPH: Final = frozenset(
    {"disable-prefill-cuda-graph", "disable-piecewise-cuda-graph", "disable-cuda-graph"}
)
"""Options that leave it out; each release has its own name."""


@dataclass(frozen=True)
class Overhead:
    """Memory of an engine on a card without any model."""

    gpu_bytes: int
    gpu_source: str | None
    """What was measured; None where it is estimated."""
    ram_bytes: int
    ram_source: str | None


def overhead(version: str, cards: Iterable[tuple[int, int]], *, encoder: bool) -> Overhead:
    """What an engine takes without a model.

    Args:
        version: SGLang's.
        cards: compute capabilities of the machine's cards.
        encoder: whether it serves an encoder.
    """
    libraries = ENCODER_BYTES if encoder else DECODER_BYTES
    same = version == MEASURED_VERSION
    source = f"SGLang {MEASURED_VERSION} on an H100; not on this host"
    # The largest counts: which card it will be is decided elsewhere.
    hopper = any(card >= MEASURED_CAPABILITY for card in cards)
    context = CONTEXT_BYTES if hopper else OTHER_CONTEXT_BYTES
    return Overhead(
        gpu_bytes=context + libraries,
        gpu_source=source if hopper and same else None,
        ram_bytes=HOST_BYTES if same else OTHER_HOST_BYTES,
        ram_source=source if same else None,
    )


UNKNOWN: Final = overhead("", (), encoder=False)
"""Of an engine and a card of which nothing is known."""

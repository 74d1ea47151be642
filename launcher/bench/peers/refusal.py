"""Why a peer cannot serve a checkpoint here, said before anything is installed or started. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from launcher.bench.peers.catalogue import Chosen, Peer
from launcher.hardware.inventory import BF16_FLAGS, Cpu


@dataclass(frozen=True)
class ModelFacts:
    """Of a checkpoint, what decides whether a peer can serve it."""

    encoder: bool
    model_type: str
    pooling: str
    dense: bool = False
    """Whether Dense modules follow the pooling."""
    quantization: str | None = None


def why_not(
    chosen: Chosen, dtype: str, model: ModelFacts, cpu: Cpu, *, compiler: bool
) -> str | None:
    """Why a peer cannot serve a checkpoint on a processor, in one sentence; None: it can.

    Args:
        dtype: what the engine computes in, where the peer takes the profile's number format.
        compiler: whether programs can be built here.
    """
    peer = chosen.peer
    return (
        _model(peer, model)
        or _processor(peer, cpu)
        or _format(chosen, dtype, cpu)
        or _build(chosen, compiler=compiler)
    )


def _model(peer: Peer, model: ModelFacts) -> str | None:
    kind = "encoder" if model.encoder else "decoder"
    if model.quantization is not None:
        return f"it reads unquantised weights, and these are in {model.quantization}"
    if kind not in peer.models:
        return f"it is set up for {peer.models[0]}s, and this model is a {kind}"
    if peer.model_types and model.model_type not in peer.model_types:
        known = ", ".join(peer.model_types)
        return f"it is set up for models of type {known}, and this one is {model.model_type}"
    if peer.export and model.dense:
        return "it is not set up for checkpoints with a Dense module after the pooling"
    if model.pooling not in peer.poolings:
        return f"it does not pool by {model.pooling}"
    return None


def _processor(peer: Peer, cpu: Cpu) -> str | None:
    if cpu.machine not in peer.machines:
        return f"it has builds for {' and '.join(peer.machines)}, and this CPU is {cpu.machine}"
    for flag in peer.needs:
        if flag not in cpu.flags:
            return f"it needs a CPU with {flag}{cpu.masked(flag)}"
    return None


def _format(chosen: Chosen, dtype: str, cpu: Cpu) -> str | None:
    if chosen.format is None and dtype not in chosen.peer.dtypes:
        return f"it does not serve {dtype}"
    if chosen.format == "bfloat16" and not cpu.computes_bf16:
        return f"this CPU has no bfloat16 arithmetic{cpu.masked(*BF16_FLAGS)}"
    return None


def _build(chosen: Chosen, *, compiler: bool) -> str | None:
    if chosen.variant in chosen.peer.needs_build and not compiler:
        return f"{chosen.variant} is made by a program that is built here: cmake and a C++ compiler"
    return None

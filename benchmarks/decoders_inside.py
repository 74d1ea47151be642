"""Runs with the engine's Python for decoders_cpu.py: times of a layer, and of its products alone.

`decoders_inside.py ROUNDS FORMAT…` prints milliseconds by format as one JSON document.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine_real"))
SHAPE = {"width": 1024, "between": 3072, "heads": 16, "keys": 8, "size": 128}
LINEARS = ((1024, 4096), (2048, 1024), (1024, 6144), (3072, 1024))
LENGTHS = [128] * 16
LAYERS = 1
BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 - torch has no public word for it
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "int8": torch.bfloat16 if BFLOAT16 else torch.float32,
}
torch.set_grad_enabled(mode=False)


def seconds(call: Callable[[], Any]) -> float:
    """How long a call takes; on one thread its processor time, which other work changes least."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


def layers(name: str) -> Callable[[], Any]:
    """A pass over the batch."""
    from decoder_model import Model  # type: ignore[import-not-found]  # beside the tests
    from qlaunch_sglang import decoder_layers, int8

    os.environ["QLAUNCH_DTYPE"] = name
    os.environ["QLAUNCH_MODEL_PATH"] = "unused"
    int8.tokenized = lambda _path: [list(range(64))]
    model = Model(layers=LAYERS, words=1000, **SHAPE).to(DTYPES[name])
    made = decoder_layers.own_layers(model, pooled=False)
    if made is None:
        raise SystemExit(f"{name}: the layers are not taken over here")
    made.start()
    for number in range(LAYERS):
        made.take(number)
    ids = torch.randint(0, 1000, (sum(LENGTHS),))
    batch = SimpleNamespace(extend_seq_lens_cpu=LENGTHS)
    return lambda: made(ids, batch)


def linears(name: str) -> list[Callable[[], Any]]:
    """The products of a layer, each over the whole batch."""
    from qlaunch_sglang.decoder_linears import Int8Linear
    from qlaunch_sglang.packed import OneDnnLinear

    calls: list[Callable[[], Any]] = []
    for columns, rows in LINEARS:
        weight = torch.randn(rows, columns).mul_(0.02).to(DTYPES[name])
        x = torch.randn(sum(LENGTHS), columns)
        if name == "int8":
            steps = (x * 20 + 128).clamp_(0, 255).to(torch.uint8)
            made = Int8Linear(weight, None, DTYPES[name])
            calls.append(lambda made=made, steps=steps: made.product(steps))  # type: ignore[misc]
        else:
            packed, x = OneDnnLinear(weight, None), x.to(DTYPES[name])
            calls.append(lambda packed=packed, x=x: packed(x))  # type: ignore[misc]
    return calls


def main() -> None:
    """Time everything in turn; the least of the rounds counts."""
    rounds, formats = int(sys.argv[1]), sys.argv[2:]
    whole = {name: layers(name) for name in formats}
    parts = {name: linears(name) for name in formats}
    times: dict[str, list[float]] = {name: [] for name in formats}
    alone: dict[str, list[list[float]]] = {name: [] for name in formats}
    for _ in range(rounds + 1):  # the first is the warm-up
        for name in formats:
            times[name].append(seconds(whole[name]))
            alone[name].append([seconds(call) for call in parts[name]])
    print(
        json.dumps(
            {
                "torch": torch.__version__,
                **{
                    name: {
                        "layer_ms": round(min(times[name][1:]) / LAYERS * 1000, 2),
                        "linears_ms": round(
                            sum(map(min, zip(*alone[name][1:], strict=True))) * 1000, 2
                        ),
                    }
                    for name in formats
                },
            }
        )
    )


if __name__ == "__main__":
    main()

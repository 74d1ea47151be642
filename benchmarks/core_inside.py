"""Runs with the engine's Python for contention.py: passes a second of one thread.

Prints `ready`; computes for as many seconds as each line it is given says, and prints the rate. A
pass is what a replica does for one text of 128 tokens: six layers of MiniLM's sizes, with weights
of their own. Products alone would say too little of caches, and too much of multipliers.
"""

from __future__ import annotations

import sys
import time

import torch

LAYERS, TOKENS, WIDTH, HEADS, BETWEEN = 6, 128, 384, 12, 1536


def main(dtype: str) -> None:
    """Answer questions until there are no more."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(mode=False)
    layers = [
        torch.nn.TransformerEncoderLayer(
            WIDTH, HEADS, BETWEEN, activation="gelu", batch_first=True, dtype=getattr(torch, dtype)
        ).eval()
        for _ in range(LAYERS)
    ]
    text = torch.randn(1, TOKENS, WIDTH, dtype=getattr(torch, dtype))

    def through() -> None:
        states = text
        for layer in layers:
            states = layer(states)

    for _ in range(20):
        through()
    print("ready", flush=True)
    for line in sys.stdin:
        count, began, seconds = 0, time.perf_counter(), float(line)
        while (took := time.perf_counter() - began) < seconds:
            through()
            count += 1
        print(count / took, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

"""Runs with the engine's Python for contention.py: layers a second of one thread.

Prints `ready`, waits for a line, multiplies for as many seconds as it is told, prints the rate.
The product is that of one text of 128 tokens and MiniLM's widest layer, in bfloat16.
"""

from __future__ import annotations

import sys
import time

import torch

TOKENS, WIDTH, BETWEEN = 128, 384, 1536


def main(seconds: float) -> None:
    """Answer one question."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(mode=False)
    texts = torch.randn(TOKENS, WIDTH, dtype=torch.bfloat16)
    layer = torch.nn.Linear(WIDTH, BETWEEN, dtype=torch.bfloat16)
    for _ in range(200):
        layer(texts)
    print("ready", flush=True)
    sys.stdin.readline()
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        layer(texts)
        count += 1
    print(count / took, flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]))

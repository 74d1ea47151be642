"""Compute SGLang's Triton attention without a GPU, by Triton's interpreter, and compare with torch.

    PYTHON kernel_numbers.py SGLANG_SOURCE > numbers.json

PYTHON has torch, the release's Triton and NumPy before 2.4, whose arrays of one number Triton's
interpreter takes for numbers. SGLANG_SOURCE is the folder that holds `sglang/`. The release's own
launch functions choose the blocks as on each card; the interpreter runs the kernel's source step by
step on the CPU. So this says that the source is right, with those blocks, and nothing of what a
compiler makes of it.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import kernel_worker  # type: ignore[import-not-found]  # beside this script

TEXTS = (5, 70, 1)
"""Tokens of each text: less than a block, more than one, one alone."""
BEFORE = (0, 3, 66)
"""Tokens of each text that a decoder's cache holds already."""
QUERIES, KEYS = 4, 2


def right(query: Any, key: Any, value: Any, *, causal: bool) -> Any:
    """Attention of one text in float64, the last queries at its end: [tokens, heads, size]."""
    import torch

    group = query.shape[1] // key.shape[1]
    q, k, v = (x.double().transpose(0, 1) for x in (query, key, value))
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    scores = q @ k.transpose(1, 2) / query.shape[-1] ** 0.5
    if causal:
        rows, length = scores.shape[1:]
        later = torch.ones(rows, length, dtype=torch.bool).triu_(length - rows + 1)
        scores = scores.masked_fill(later, -torch.inf)
    return (torch.softmax(scores, -1) @ v).transpose(0, 1)


def by_text(lengths: tuple[int, ...], *parts: Any) -> list[tuple[Any, ...]]:
    """The rows of each text, from every part."""
    return list(zip(*(part.split(lengths) for part in parts), strict=True))


def encoders(module: Any, head: int, dtype: Any) -> float:
    """The largest difference of any number, texts looked at in both directions."""
    import torch

    total = sum(TEXTS)
    q, k, v = (torch.randn(total, heads, head).to(dtype) for heads in (QUERIES, KEYS, KEYS))
    out = torch.zeros_like(q)
    lengths = torch.tensor(TEXTS, dtype=torch.int32)
    starts = (lengths.cumsum(0) - lengths).to(torch.int32)
    module.context_attention_fwd(q, k, v, out, starts, lengths, max(TEXTS), is_causal=False)
    wanted = [right(*each, causal=False) for each in by_text(TEXTS, q, k, v)]
    return float((out.double() - torch.cat(wanted)).abs().max())


def decoders(module: Any, head: int, dtype: Any) -> float:
    """The same for texts that go on from what is cached, each token seeing those before it."""
    import torch

    total, kept = sum(TEXTS), sum(BEFORE)
    q, k, v = (torch.randn(total, heads, head).to(dtype) for heads in (QUERIES, KEYS, KEYS))
    keys, values = (torch.randn(kept, KEYS, head).to(dtype) for _ in range(2))
    out = torch.zeros_like(q)
    ends = torch.tensor([0, *TEXTS], dtype=torch.int32).cumsum(0).to(torch.int32)
    places = torch.tensor([0, *BEFORE], dtype=torch.int32).cumsum(0).to(torch.int32)
    order = torch.randperm(kept)
    asked = inspect.signature(module.extend_attention_fwd).parameters
    scales = {name: 1.0 for name in ("k_scale", "v_scale") if name in asked}
    cache = [x.index_select(0, order.argsort()) for x in (keys, values)]
    given = (q, k, v, out, *cache, ends, places, order, None, True, None, max(TEXTS))
    module.extend_attention_fwd(*given, **scales)
    cached, new = by_text(BEFORE, keys, values), by_text(TEXTS, q, k, v)
    wanted = [
        right(one, torch.cat([old_k, new_k]), torch.cat([old_v, new_v]), causal=True)
        for (old_k, old_v), (one, new_k, new_v) in zip(cached, new, strict=True)
    ]
    return float((out.double() - torch.cat(wanted)).abs().max())


class Watched:
    """A kernel that keeps the blocks it was last launched with."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self.blocks: dict[str, Any] = {}

    def __getitem__(self, grid: object) -> Any:
        def launch(*args: Any, **kwargs: Any) -> Any:
            self.blocks = {name: kwargs[name] for name in ("BLOCK_M", "BLOCK_N") if name in kwargs}
            return self._kernel[grid](*args, **kwargs)

        return launch


def answer(module: Any, card: kernel_worker.Card, head: int) -> dict[str, Any]:
    """How far each dtype's numbers are off, and the blocks that were taken."""
    import torch

    names = vars(module)
    names.update(CUDA_CAPABILITY=card, _is_cuda=True, _is_hip=False)
    if not isinstance(names["_fwd_kernel"], Watched):
        names["_fwd_kernel"] = Watched(names["_fwd_kernel"])
    compute = encoders if module.__name__.endswith("prefill_attention") else decoders
    found: dict[str, Any] = {}
    for name in ("float32", "float16"):
        torch.manual_seed(3)
        found[f"off_{name}"] = compute(module, head, getattr(torch, name))
    return found | names["_fwd_kernel"].blocks


def main() -> None:
    """Interpret everything; what cannot be interpreted says why."""
    import triton  # type: ignore[import-not-found]

    rows = kernel_worker.of_every_kernel(kernel_worker.stand_in(Path(sys.argv[1])), answer)
    json.dump({"triton": triton.__version__, "rows": rows}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()

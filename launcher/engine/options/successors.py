"""What replaces an option in a release that lacks it, where the tables themselves do not say.

Each option maps to the candidates; those that the release has are named, the others passed over,
so one entry serves in both directions of time. Sources: the `new_flag` and help texts of
SGLang 0.5.15.post1's deprecated options (`srt/server_args.py`), the release where each option
disappears (tables in `tables/`), and what the reason beside an entry says.
"""

from __future__ import annotations

SUCCESSORS: dict[str, tuple[str, ...]] = {
    # Removed between 0.5.18 and 0.5.20 (sgl-project/sglang#38375). 0.5.15.post1 moved the value to
    # the decode phase; embedding servers only ever run prefill, so both are named.
    "--cuda-graph-max-bs": ("--cuda-graph-max-bs-prefill", "--cuda-graph-max-bs-decode"),
    "--cuda-graph-bs": ("--cuda-graph-bs-prefill", "--cuda-graph-bs-decode"),
    "--cuda-graph-max-bs-prefill": ("--piecewise-cuda-graph-max-tokens", "--cuda-graph-max-bs"),
    "--cuda-graph-max-bs-decode": ("--cuda-graph-max-bs",),
    "--cuda-graph-bs-prefill": ("--piecewise-cuda-graph-tokens", "--cuda-graph-bs"),
    "--cuda-graph-bs-decode": ("--cuda-graph-bs",),
    "--piecewise-cuda-graph-max-tokens": ("--cuda-graph-max-bs-prefill",),
    "--piecewise-cuda-graph-tokens": ("--cuda-graph-bs-prefill",),
    # The prefill graph was called piecewise, and is on by default from 0.5.10.post1 on; the oldest
    # release has none, and knows the switch for all graphs only.
    "--disable-piecewise-cuda-graph": ("--disable-prefill-cuda-graph", "--disable-cuda-graph"),
    "--disable-prefill-cuda-graph": ("--disable-piecewise-cuda-graph", "--disable-cuda-graph"),
    "--disable-decode-cuda-graph": ("--disable-cuda-graph",),
    # The backend that these chose, tc_piecewise, left with 0.5.20 (`parse_cuda_graph_backend_arg`
    # in srt/model_executor/cuda_graph_config.py: "select breakable, full, or disabled").
    "--enable-piecewise-cuda-graph": ("--cuda-graph-backend-prefill breakable",),
    "--enforce-piecewise-cuda-graph": ("--cuda-graph-backend-prefill breakable",),
    "--enable-breakable-cuda-graph": ("--cuda-graph-backend-prefill breakable",),
    # torchao left in 0.5.18; weights are quantised at load by these methods instead.
    "--torchao-config": ("--quantization",),
    # Sparse attention of DeepSeek was renamed from nsa to dsa.
    "--nsa-prefill-backend": ("--dsa-prefill-backend",),
    "--nsa-decode-backend": ("--dsa-decode-backend",),
    "--dsa-prefill-backend": ("--nsa-prefill-backend",),
    "--dsa-decode-backend": ("--nsa-decode-backend",),
    "--enable-ep-moe": ("--ep-size",),
    "--enable-deepep-moe": ("--moe-a2a-backend deepep",),
    "--enable-triton-kernel-moe": ("--moe-runner-backend triton_kernel",),
    "--enable-flashinfer-cutlass-moe": ("--moe-runner-backend flashinfer_cutlass",),
    "--enable-flashinfer-trtllm-moe": ("--moe-runner-backend flashinfer_trtllm",),
    "--enable-flashinfer-mxfp4-moe": ("--moe-runner-backend flashinfer_mxfp4",),
    "--max-micro-batch-size": ("--pp-max-micro-batch-size",),
    "--hybrid-kvcache-ratio": ("--swa-full-tokens-ratio",),
    "--stream-output": ("--incremental-streaming-output",),
    "--mamba-scheduler-strategy": ("--mamba-radix-cache-strategy",),
}

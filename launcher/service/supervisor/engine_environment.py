"""Which of the user's environment variables reach the engine.

An allow-list: a shell's environment holds cloud credentials, tokens and prompts of other tools,
and an engine prints its environment when it crashes. A computing library's variables pass where
they say where its threads run or which instructions it may use, and not where they change how much
of a product is computed (OMP_DYNAMIC, OMP_THREAD_LIMIT) or in what numbers. A hub's do not
pass: the model is a local folder. What a plan sets comes on top, so anything missing here can be
given with `env:` in a profile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from launcher import child_environment

_EXACT = frozenset(
    {
        "PATH",  # compilers and ninja for kernels that are built on the spot
        "HOME",  # where torch, triton and flashinfer keep compiled kernels
        "USER",
        "LOGNAME",  # torch names its cache folder after the user
        "TZ",  # time stamps in the engine's log
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",  # tcmalloc, jemalloc, Intel OpenMP: SGLang's CPU documentation asks for them
        "CPATH",
        "LIBRARY_PATH",
        "CC",
        "CXX",  # the compiler for kernels that are built on the spot
        *("OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND", "OMP_WAIT_POLICY"),
        *("GOMP_CPU_AFFINITY", "KMP_AFFINITY", "KMP_BLOCKTIME"),
        # Instruction sets that are not to be used.
        *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
        "MKL_ENABLE_INSTRUCTIONS",
        *("TORCH_EXTENSIONS_DIR", "TORCH_HOME"),
        "MALLOC_ARENA_MAX",
        "MALLOC_CONF",
        "TOKENIZERS_PARALLELISM",
        "http_proxy",
        "https_proxy",
        "no_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "ALL_PROXY",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",  # a company's own certificates
    }
)
_PREFIXES = (
    "CUDA_",
    "NVIDIA_",  # the container runtime's choice of devices
    "NCCL_",
    "SGLANG_",
    "SGL_",
    "TORCHINDUCTOR_",
    "TORCH_CUDA_",
    "TORCH_NCCL_",
    "PYTORCH_",
    "TRITON_",
    "FLASHINFER_",
    "XDG_",
    "SSL_",
)
_SECRET = re.compile(r"TOKEN(?!IZER)|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL", re.IGNORECASE)
"""Names that hold secrets, whatever they begin with: models are fetched before the engine starts,
so it never needs one."""
_ELSEWHERE = frozenset(
    {
        "SGLANG_USE_MODELSCOPE",  # fetches the model by a client that engines do not have
        "SGLANG_PLUGINS",  # a list without qlaunch's own, which the plan counts on
        *("SGLANG_RUST_SERVER", "SGLANG_GRPC_PORT"),  # ways in beside the guard
    }
)
"""Meant for a server of the user's own; a profile that says them is told why not."""


def is_secret(name: str) -> bool:
    """Whether the variable `name` holds a secret."""
    return _SECRET.search(name) is not None


def allowed(name: str) -> bool:
    """Whether the engine may see the variable `name`."""
    if name in _ELSEWHERE or is_secret(name):
        return False
    return name in _EXACT or name.startswith(_PREFIXES)


def engine_environment(
    inherited: Mapping[str, str],
    planned: Mapping[str, str],
    marker: tuple[str, str],
    own: Mapping[str, str] = child_environment.TEXT,
) -> dict[str, str]:
    """The engine's whole environment: what is allowed, then ours, the plan's, and our marker.

    `own` is what `childenv.for_engines` finds, and TMPDIR: the locale, for one, never passes. The
    marker (name, value) goes down to every process that the engine starts, so that leftovers
    of a crashed run can be told from strangers (`procs.marked`).
    """
    env = {name: value for name, value in inherited.items() if allowed(name)}
    env.update(own)
    env.update(planned)
    env[marker[0]] = marker[1]
    return env

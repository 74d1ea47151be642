"""Weights that are copied from a mapped file, and the file's pages given back as they are done.

A safetensors file stays mapped until its last tensor is copied, so at the end of loading a model is
in memory twice: 1.2 GB more than it needs for Qwen3-Embedding-0.6B, and the highest moment of its
life. The pages are the file's own and unchanged: dropping them costs nothing but a read from the
page cache, if anyone looked again.
"""

import ctypes
import logging
import mmap

import torch

logger = logging.getLogger(__name__)

CHUNK_BYTES = 64 << 20
"""Copied bytes after which pages are given back: one look at the process's mappings each."""
_MADV_DONTNEED = 4
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def released(weights):
    """The same names and tensors; the pages of those before are let go on the way.

    A tensor counts as done when the next one is asked for: the models copy each as it comes. One
    that is read again later is read from its file again.
    """
    done, size = [], 0
    for name, tensor in weights:
        yield name, tensor
        done.append(tensor)
        size += tensor.nbytes
        if size >= CHUNK_BYTES:
            let_go(done)
            done, size = [], 0
    let_go(done)


def let_go(tensors: list[torch.Tensor]) -> int:
    """Give back the pages of tensors that lie in a mapped .safetensors file; their bytes.

    Anything else is left alone: dropping pages that are no file's would lose what is in them.
    """
    try:
        files = mapped_files()
        return sum(_drop(tensor, files) for tensor in tensors)
    except (OSError, ValueError) as error:
        logger.info("qlaunch: pages of loaded weights stay: %s", error)
        return 0


def mapped_files() -> list[tuple[int, int]]:
    """Start and end of every mapping of a .safetensors file in this process."""
    found = []
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            if line.rstrip().endswith(".safetensors"):
                low, _, high = line.split(maxsplit=1)[0].partition("-")
                found.append((int(low, 16), int(high, 16)))
    return found


def _drop(tensor: torch.Tensor, files: list[tuple[int, int]]) -> int:
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        return 0
    page = mmap.PAGESIZE
    first = -(-tensor.data_ptr() // page) * page
    size = (tensor.data_ptr() + tensor.nbytes) // page * page - first
    if size <= 0 or not any(low <= first and first + size <= high for low, high in files):
        return 0
    return size if _libc.madvise(first, size, _MADV_DONTNEED) == 0 else 0

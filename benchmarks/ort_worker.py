"""MiniLM by ONNX Runtime in process, in a Python of its own that has torch, transformers and onnx.

    python ort_worker.py export MODEL FOLDER            fused.onnx, int8.onnx, int8_seven.onnx
    python ort_worker.py avx2 FOLDER                    a copy of onnxruntime held to AVX2
    python ort_worker.py time FILE THREADS SECONDS      one JSON line: seconds a call, by batch

ONNX Runtime chooses its kernels by the processor and listens to no variable. The copy answers its
question for the state that the system keeps (XGETBV) with that of a system without AVX-512, so that
it takes the kernels that it takes on a processor with AVX2 alone.
"""

import json
import re
import shutil
import sys
import time
from pathlib import Path

WORKERS = Path(__file__).resolve().parents[1] / "launcher/bench/peers/workers"
"""Whose way of exporting is the one that `compare --peer onnxruntime` takes."""
TOKENS = 128
BATCHES = (1, 16)
NEAR = 400
"""Bytes between a CPUID and the XGETBV that belongs to it; others are no code."""


def export(model: str, folder: Path) -> None:
    """Write the graph in float32, fused for BERT, and in int8 with weights of 8 and of 7 bits."""
    sys.path.insert(0, str(WORKERS))
    from qlaunch_peers.export_onnxruntime import fuse, quantise, trace

    traced, fused = folder / "traced.onnx", folder / "fused.onnx"
    fuse(traced, fused, trace(model, traced))
    quantise(fused, folder / "int8.onnx", seven_bits=False)
    quantise(fused, folder / "int8_seven.onnx", seven_bits=True)


def hold_to_avx2(folder: Path) -> None:
    """Copy this Python's onnxruntime to `folder`, with every XGETBV near a CPUID answered `7`."""
    import onnxruntime

    package = Path(onnxruntime.__file__).parent
    shutil.copytree(package, folder / package.name, dirs_exist_ok=True)
    (library,) = (folder / package.name / "capi").glob("onnxruntime_pybind11_state*.so")
    code = bytearray(library.read_bytes())
    asked = [found.start() for found in re.finditer(b"\x0f\xa2", bytes(code))]
    answers = [found.start() for found in re.finditer(b"\x0f\x01\xd0", bytes(code))]
    held = [at for at in answers if any(abs(at - each) < NEAR for each in asked)]
    for at in held:
        code[at : at + 3] = b"\x6a\x07\x58"  # push 7; pop rax: x87, SSE and AVX, no AVX-512
    library.write_bytes(code)
    print(json.dumps({"held": len(held)}))


def timed(file: str, threads: int, seconds: float) -> None:
    """Print the seconds of every call, by number of texts of 128 tokens; pooled and normalised."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    random, found = np.random.default_rng(0), {}
    for texts in BATCHES:
        taken, end = [], None
        while end is None or time.perf_counter() < end:
            ids = random.integers(1000, 20000, (texts, TOKENS))
            ones = np.ones_like(ids)
            given = {"input_ids": ids, "attention_mask": ones, "token_type_ids": ones * 0}
            began = time.perf_counter()
            vectors = session.run(None, given)[0].mean(axis=1)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            taken.append(time.perf_counter() - began)
            end = time.perf_counter() + seconds if len(taken) == 3 else end
        found[texts] = taken[3:]
    print(json.dumps({"seconds": found, "onnxruntime": onnxruntime.__version__}))


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    if what == "export":
        export(words[0], Path(words[1]))
    elif what == "avx2":
        hold_to_avx2(Path(words[0]))
    else:
        timed(words[0], int(words[1]), float(words[2]))

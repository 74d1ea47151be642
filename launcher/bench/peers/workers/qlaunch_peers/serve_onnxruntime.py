"""ONNX Runtime on an exported graph, behind the least of a server."""

from __future__ import annotations

import threading
from typing import Any

from qlaunch_peers import settings
from qlaunch_peers.encoding import Texts, pooled
from qlaunch_peers.export_onnxruntime import GRAPH, INPUTS
from qlaunch_peers.http_server import Answer, serve


def session(path: str, threads: int) -> Any:
    """A session with every optimisation; its arena for memory is on, as it ships."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Load the graph and serve until the process is ended."""
    asked = settings.read()
    texts_of = Texts(asked)
    running = session(str(asked.folder / GRAPH), asked.threads)
    takes = {each.name for each in running.get_inputs()}
    one_at_a_time = threading.Lock()

    def encode(texts: list[str]) -> Answer:
        ids, mask = texts_of.batch(texts)
        feeds = dict(zip(INPUTS, (ids, mask, ids * 0), strict=True))
        with one_at_a_time:
            (states,) = running.run(None, {name: feeds[name] for name in takes})
        return Answer(pooled(states, mask, asked), int(mask.sum()))

    encode(["warm-up"])
    serve(asked.port, encode)


if __name__ == "__main__":
    main()

"""OpenVINO on an exported graph, behind the least of a server."""

from __future__ import annotations

import threading
from typing import Any

from qlaunch_peers import settings
from qlaunch_peers.encoding import Texts, pooled
from qlaunch_peers.export_openvino import GRAPH
from qlaunch_peers.http_server import Answer, serve
from qlaunch_peers.settings import Settings


def compiled(asked: Settings) -> Any:
    """The graph for this processor, in float32 unless bfloat16 is what is measured."""
    import openvino

    return openvino.Core().compile_model(
        str(asked.folder / GRAPH),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": asked.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if asked.variant == "bfloat16" else "f32",
        },
    )


def main() -> None:
    """Load the graph and serve until the process is ended."""
    asked = settings.read()
    texts_of = Texts(asked)
    running = compiled(asked).create_infer_request()
    one_at_a_time = threading.Lock()

    def encode(texts: list[str]) -> Answer:
        ids, mask = texts_of.batch(texts)
        with one_at_a_time:
            found = running.infer({0: ids, 1: mask}, share_inputs=True)
            vectors = pooled(found[0], mask, asked)
        return Answer(vectors, int(mask.sum()))

    encode(["warm-up"])
    serve(asked.port, encode)


if __name__ == "__main__":
    main()

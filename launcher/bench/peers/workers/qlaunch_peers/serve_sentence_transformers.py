"""sentence-transformers as people use it in their own process, behind the least of a server.

One call of `encode` at a time, with the texts of one request, as a program without a server around
it would do.
"""

from __future__ import annotations

import threading

from qlaunch_peers import settings
from qlaunch_peers.http_server import Answer, serve


def main() -> None:
    """Load the model and serve until the process is ended."""
    asked = settings.read()

    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(asked.threads)
    model = SentenceTransformer(
        asked.model_path, device="cpu", model_kwargs={"dtype": getattr(torch, asked.variant)}
    )
    model.encode(["warm-up"])
    one_at_a_time = threading.Lock()

    def encode(texts: list[str]) -> Answer:
        with one_at_a_time:
            found = model.encode(
                texts, batch_size=len(texts), convert_to_tensor=True, show_progress_bar=False
            )
        return Answer(found.float().numpy())

    serve(asked.port, encode)


if __name__ == "__main__":
    main()

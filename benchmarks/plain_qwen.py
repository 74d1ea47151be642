"""Qwen3-0.6B's shape with random weights, against the plain command: start and memory.

See benchmarks/plain.py for the plain command. The checkpoint (1.2 GB) is made on the spot; its
float32 reference takes 2.4 GB of memory once.
"""

from __future__ import annotations

from benchmarks import machine
from benchmarks.figures import Report
from benchmarks.home import home, provide
from benchmarks.options import Options
from benchmarks.plain import Pair, Work, measure_pairs, notes, raw, report, start_and_memory
from benchmarks.start import ENGINE, shown

PROFILE = "cpu-qwen3-0.6b"
START_LIMIT, MEMORY_LIMIT = 0.4, 0.2


def run(options: Options) -> Report:
    """Measure, and return what was seen.

    Raises:
        BenchError: something did not start.
    """
    # Needs numpy and tokenizers, which only those who work on qlaunch have.
    from tests.checkpoints import make_qwen3_06b_shape

    provide(options.say, engine=ENGINE)
    facts, times, pair = machine.facts(), options.times(usual=3), Pair()
    with home() as place:
        options.say("making the checkpoint (1.2 GB)")
        model = make_qwen3_06b_shape(place.root / "qwen3-0.6b-shape")
        asked = (PROFILE, "--model", str(model))
        version = str(place.data("plan", *asked)["engine"]["version"])
        argv = measure_pairs(place, options, facts, pair, Work(0.0, None), times, *asked)
    return report(
        "plain_qwen",
        "Qwen3-0.6B's shape against the plain command",
        options,
        facts,
        version,
        settings={"repeats": times, "ours": shown(argv)},
        rows=tuple(start_and_memory(pair, "at most", START_LIMIT, MEMORY_LIMIT)),
        notes=(*notes(argv), *_NOTES),
        raw=raw(pair),
    )


_NOTES = (
    "Random weights of Qwen3-Embedding-0.6B's shape, in bfloat16.",
    "Its tokenizer knows 512 tokens: texts have more than with the model's own.",
)

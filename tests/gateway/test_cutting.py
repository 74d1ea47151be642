"""`dimensions` of a Matryoshka model: a whole vector answers every length, as the engine does."""

from __future__ import annotations

import json
import math
from array import array
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.app.vector_cuts import cuts_of
from launcher.documents.plan import Guard, Plan
from launcher.gateway.cutting import Cuts, cut
from launcher.gateway.problems import RequestError
from tests import samples
from tests.gateway.harness import Bench, Memory, Reply, run
from tests.gateway.scripted_server import truth

CUTS = Cuts(normalize=True)
NUMBERS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


def close(reply: Reply, texts: list[str], dimensions: int) -> bool:
    """Whether these are the server's own vectors of that length, but for rounding."""
    return all(
        len(mine) == dimensions
        and all(
            math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-7)
            for a, b in zip(mine, truth(text, dimensions), strict=True)
        )
        for mine, text in zip(reply.vectors, texts, strict=True)
    )


def bench_that_cuts(cuts: Cuts | None = CUTS) -> Bench:
    return Bench(Memory(), cuts=cuts)


@given(st.lists(NUMBERS, min_size=2, max_size=40), st.data())
def test_a_cut_vector_has_the_direction_of_the_beginning_and_length_1(
    numbers: list[float], data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, len(numbers)))
    vector = array("f", numbers).tobytes()
    beginning = array("f", numbers).tolist()[:size]
    if size == len(numbers):
        assert cut(vector, size, normalize=True) == vector
        return
    assert cut(vector, size, normalize=False) == vector[: 4 * size]
    length = math.hypot(*beginning)
    if not length:
        with pytest.raises(RequestError) as refused:
            cut(vector, size, normalize=True)
        assert refused.value.status == 502
        return
    made = array("f")
    made.frombytes(cut(vector, size, normalize=True))
    assert math.isclose(math.hypot(*made), 1, rel_tol=1e-5)
    for one, other in zip(made, beginning, strict=True):
        assert math.isclose(one, other / length, rel_tol=1e-6, abs_tol=1e-7)


def test_one_entry_answers_every_length() -> None:
    async def work() -> None:
        async with bench_that_cuts() as bench:
            texts = ["one", "two"]
            assert (await bench.ask(texts)).vectors == [truth(text) for text in texts]
            for dimensions in (1, 4, 8, 15, 16):
                reply = await bench.ask(texts, dimensions=dimensions)
                assert close(reply, texts, dimensions)
                assert reply.hits == 2
                assert reply.body["usage"]["prompt_tokens"] == 0
            assert len(bench.server.calls) == 1

    run(work())


def test_a_short_one_that_is_missing_is_made_whole_and_kept_so() -> None:
    async def work() -> None:
        async with bench_that_cuts() as bench:
            reply = await bench.ask(["one", "one"], dimensions=8)
            assert close(reply, ["one", "one"], 8)
            assert reply.hits == 0
            assert "dimensions" not in bench.server.calls[0]
            whole = await bench.ask("one")
            assert whole.hits == 1
            assert whole.vectors == [truth("one")]

    run(work())


def test_a_model_that_is_not_known_to_allow_it_is_asked() -> None:
    async def work() -> None:
        async with bench_that_cuts(None) as bench:
            await bench.ask("one")
            reply = await bench.ask("one", dimensions=8)
            assert (reply.hits, reply.vectors) == (0, [truth("one", 8)])
            assert bench.server.calls[1]["dimensions"] == 8

    run(work())


def test_a_length_that_the_engine_would_refuse_is_left_to_it() -> None:
    """A text that is kept must not be answered where one that is not would be refused."""

    async def work() -> None:
        cuts = Cuts(normalize=True, sizes=frozenset({4, 8}))
        async with bench_that_cuts(cuts) as bench:
            await bench.ask("one")
            assert close(await bench.ask("one", dimensions=8), ["one"], 8)
            bench.server.status = 400
            assert (await bench.ask("one", dimensions=5)).status == 400
            assert bench.server.calls[-1]["dimensions"] == 5
            assert (await bench.ask("one", dimensions=17)).status == 400

    run(work())


def test_past_the_cache_the_engine_itself_cuts() -> None:
    async def work() -> None:
        async with bench_that_cuts() as bench:
            reply = await bench.ask("one", {"Cache-Control": "no-store"}, dimensions=8)
            assert reply.vectors == [truth("one", 8)]
            assert bench.server.calls[0]["dimensions"] == 8

    run(work())


@pytest.mark.parametrize("fields", [{"encoding_format": "base64"}, {"output_dtype": "ubinary"}])
def test_a_cut_vector_comes_in_every_form(fields: dict[str, Any]) -> None:
    async def work() -> None:
        async with bench_that_cuts() as bench, bench_that_cuts(None) as other:
            mine = await bench.ask(["one", "two"], dimensions=8, **fields)
            its = await other.ask(["one", "two"], dimensions=8, **fields)
            for a, b in zip(mine.vectors, its.vectors, strict=True):
                assert a == pytest.approx(b, rel=1e-6)

    run(work())


def plan(folder: Path, *argv: str, version: str = "0.5.23", **config: Any) -> Plan:
    (folder / "config.json").write_text(json.dumps(config))
    made = samples.plan()
    engine = msgspec.structs.replace(made.engine, argv=("sglang", *argv), version=version)
    return msgspec.structs.replace(made, engine=engine, model_path=str(folder))


OVERRIDE = "--json-model-override-args"
ALLOWED = Cuts(normalize=True)


@pytest.mark.parametrize(
    ("argv", "config", "expected"),
    [
        ((), {}, None),
        ((OVERRIDE, '{"is_matryoshka": true}'), {}, ALLOWED),
        ((f'{OVERRIDE}={{"is_matryoshka": true}}', "--dtype", "x"), {}, ALLOWED),
        ((OVERRIDE, '{"is_matryoshka": false}'), {"is_matryoshka": True}, None),
        ((OVERRIDE, "no JSON"), {}, None),
        ((OVERRIDE,), {}, None),
        ((), {"is_matryoshka": True}, ALLOWED),
        (
            (),
            {"matryoshka_dimensions": [64, 128]},
            Cuts(normalize=True, sizes=frozenset({64, 128})),
        ),
        ((), {"matryoshka_dimensions": "64"}, None),
        ((OVERRIDE, '{"matryoshka_dimensions": []}'), {"matryoshka_dimensions": [64]}, None),
    ],
)
def test_what_the_engine_allows_is_read_as_it_reads_it(
    argv: tuple[str, ...], config: dict[str, Any], expected: Cuts | None, tmp_path: Path
) -> None:
    assert samples.plan().expectation.normalize
    assert cuts_of(plan(tmp_path, *argv, **config)) == expected


def test_a_guard_that_refuses_shorter_vectors_before_the_engine_is_heard(tmp_path: Path) -> None:
    """A kept text was answered where one that is not was refused."""
    made = plan(tmp_path, is_matryoshka=True)
    guard = Guard(
        model="m",
        vocabulary=100,
        text_tokens=512,
        text_bytes=1000,
        inputs=64,
        call_tokens=1000,
        call_bytes=1000,
        body_bytes=1000,
        dimensions=384,
        cut=False,
        metrics=False,
        loopback=True,
        hosts=(),
        origins=(),
        open_calls=10,
        open_bytes=1000,
        open_inputs=64,
        open_tokens=1000,
        body_seconds=30.0,
    )
    for cuts, expected in ((True, ALLOWED), (False, None)):
        guarded = msgspec.structs.replace(made, guard=msgspec.structs.replace(guard, cut=cuts))
        assert cuts_of(guarded) == expected


def test_an_older_engine_cuts_nothing(tmp_path: Path) -> None:
    assert cuts_of(plan(tmp_path, version="0.5.5", is_matryoshka=True)) is None


def test_a_configuration_that_is_a_link_into_a_hubs_store_is_read(tmp_path: Path) -> None:
    made = plan(tmp_path, is_matryoshka=True)
    (tmp_path / "config.json").rename(tmp_path / "blob")
    (tmp_path / "config.json").symlink_to("blob")
    assert cuts_of(made) == ALLOWED
    (tmp_path / "blob").unlink()
    assert cuts_of(made) is None

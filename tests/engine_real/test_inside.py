"""The plugin's own parts, in the engine's Python: pooling, the decision to fork, the stand-ins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from launcher.engine.release import Engine
from launcher.model.settings import ACTIVATIONS
from launcher.verify.reference_worker import activate
from tests.checkpoints import make_bert
from tests.engine_real.inside_process import Ask, Inside

RANDOM = np.random.default_rng(7)
LENGTHS = [3, 1, 5]
STATES = RANDOM.standard_normal((9, 8)).astype(np.float32)
PARTS = [STATES[:3], STATES[3:4], STATES[4:]]


@pytest.fixture
def ask_anew(engine: Engine) -> Iterator[Ask]:
    """A process that has not imported SGLang: nothing of it has started a thread."""
    inside = Inside(engine)
    yield inside.ask
    inside.close()


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths


def expected(mode: str) -> NDArray[np.float32]:
    pick: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
        "cls": lambda part: part[0],
        "last": lambda part: part[-1],
        "mean": lambda part: part.mean(axis=0),
        "max": lambda part: part.max(axis=0),
    }
    return np.stack([pick[mode](part) for part in PARTS])


def pooling_config(folder: Path, config: dict[str, Any]) -> None:
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config), encoding="utf-8")


def test_pooling_is_what_numpy_computes(ask: Ask) -> None:
    modes = ["cls", "last", "mean", "max"]
    question = {"ask": "pooled", "states": STATES.tolist(), "lengths": LENGTHS}
    exact = ask(*({**question, "mode": mode} for mode in modes))
    for mode, found in zip(modes, exact, strict=True):
        assert found["dtype"] == "torch.float32"
        np.testing.assert_allclose(found["vectors"], expected(mode), rtol=1e-6, atol=1e-6)


def test_half_precision_states_are_summed_in_float32(ask: Ask) -> None:
    # 4096 times 1 and one 2^-6: a bfloat16 sum stops growing at 256, a float32 one does not.
    states = [[1.0]] * 4096 + [[0.015625]]
    question = {"ask": "pooled", "mode": "mean", "dtype": "bfloat16"}
    many, one, unknown = ask(
        {**question, "states": states, "lengths": [4097]},
        {**question, "states": [[0.5, -0.25]], "lengths": [1]},
        {**question, "mode": "median", "states": [[1.0]], "lengths": [1]},
    )
    assert many["dtype"] == "torch.float32"
    assert many["vectors"][0][0] == pytest.approx((4096 + 0.015625) / 4097, rel=1e-6)
    assert one["vectors"] == [[0.5, -0.25]]
    assert unknown == {"error": "ValueError", "message": "unknown pooling mode 'median'"}


def attention(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Two heads of 4 over one text, scaled by 0.5: softmax(q k / 2) v."""
    out = np.empty((len(rows), 8), dtype=np.float32)
    for head in range(2):
        query, key, value = (rows[:, at + 4 * head : at + 4 * head + 4] for at in (0, 8, 16))
        scores = query @ key.T * 0.5
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, 4 * head : 4 * head + 4] = scores / scores.sum(axis=-1, keepdims=True) @ value
    return out


@pytest.mark.parametrize("intel", [False, True])
def test_attention_stays_within_each_text(ask: Ask, intel: bool) -> None:
    for lengths in ([3, 3, 1, 5, 5, 5, 2], [1], [4, 4], [7, 1, 1]):
        rows = RANDOM.standard_normal((sum(lengths), 24)).astype(np.float32)
        question = {"ask": "attended", "states": rows.tolist(), "lengths": lengths, "intel": intel}
        (found,) = ask(question)
        parts = np.split(rows, np.cumsum(lengths)[:-1])
        expected_rows = np.concatenate([attention(part) for part in parts])
        np.testing.assert_allclose(found, expected_rows, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lengths", [[3, 3, 1], [4, 4], [7]])
def test_rows_of_no_text_change_nothing_and_stay_zero(ask: Ask, lengths: list[int]) -> None:
    rows = RANDOM.standard_normal((sum(lengths) + 5, 24)).astype(np.float32)
    rows[-5:] = np.nan
    plain = {"ask": "attended", "states": rows[:-5].tolist(), "lengths": lengths}
    padded = {**plain, "states": rows.tolist(), "padding": 5}
    without, found = ask(plain, padded)
    assert found[:-5] == without
    assert found[-5:] == [[0.0] * 8] * 5


def causal_attention(rows: NDArray[np.float32], kv_heads: int) -> NDArray[np.float32]:
    """Two heads of 4 over one text, each token seeing itself and those before it."""
    out = np.empty((len(rows), 8), dtype=np.float32)
    hidden = np.triu(np.full((len(rows), len(rows)), -np.inf), 1)
    for head in range(2):
        shared = head * kv_heads // 2
        query = rows[:, 4 * head : 4 * head + 4]
        key = rows[:, 8 + 4 * shared : 12 + 4 * shared]
        value = rows[:, 8 + 4 * (kv_heads + shared) : 12 + 4 * (kv_heads + shared)]
        scores = query @ key.T * 0.5 + hidden
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        out[:, 4 * head : 4 * head + 4] = scores / scores.sum(axis=-1, keepdims=True) @ value
    return out


@pytest.mark.parametrize("kv_heads", [1, 2])
def test_causal_attention_sees_what_came_before_in_its_own_text(ask: Ask, kv_heads: int) -> None:
    width = 8 + 8 * kv_heads
    for lengths in ([3, 3, 1, 5, 5, 5, 2], [1], [3000, 2, 2]):
        rows = RANDOM.standard_normal((sum(lengths), width)).astype(np.float32)
        question = {"ask": "attended", "lengths": lengths, "causal": True, "kv_heads": kv_heads}
        (found,) = ask({**question, "states": rows.tolist()})
        parts = np.split(rows, np.cumsum(lengths)[:-1])
        expected_rows = np.concatenate([causal_attention(part, kv_heads) for part in parts])
        np.testing.assert_allclose(found, expected_rows, rtol=1e-4, atol=1e-5)


def test_attention_in_float32_of_long_texts_is_pytorch_s(ask: Ask) -> None:
    lengths = [64, 65, 65, 1]
    rows = RANDOM.standard_normal((sum(lengths), 24)).astype(np.float32)
    (found,) = ask({"ask": "attended", "states": rows.tolist(), "lengths": lengths})
    parts = np.split(rows, np.cumsum(lengths)[:-1])
    np.testing.assert_allclose(
        found, np.concatenate([attention(part) for part in parts]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("intel", [False, True])
def test_attention_in_bfloat16_is_the_same_however_texts_are_grouped(ask: Ask, intel: bool) -> None:
    rows = RANDOM.standard_normal((30, 24)).astype(np.float32)
    question = {"ask": "attended", "states": rows.tolist(), "lengths": [6] * 5, "dtype": "bfloat16"}
    question["intel"] = intel
    whole, one, two = ask(question, {**question, "scores": 1}, {**question, "scores": 2 * 2 * 36})
    assert whole == one == two
    parts = [attention(part) for part in np.split(rows, 5)]
    np.testing.assert_allclose(whole, np.concatenate(parts), atol=0.03)


WAYS: list[dict[str, Any]] = [
    {"dtype": dtype, **way}
    for dtype in ("bfloat16", "float16")
    for way in ({"intel": False}, {"intel": True}, {"causal": True})
]


@pytest.mark.parametrize("way", WAYS)
def test_attention_in_16_bits_of_texts_that_are_rounded_up(ask: Ask, way: dict[str, Any]) -> None:
    lengths = [33, 33, 70, 31, 64, 97]
    rows = RANDOM.standard_normal((sum(lengths), 24)).astype(np.float32)
    parts = np.split(rows, np.cumsum(lengths)[:-1])
    question = {"ask": "attended", **way}
    found, *alone = ask(
        {**question, "states": rows.tolist(), "lengths": lengths},
        *({**question, "states": part.tolist(), "lengths": [len(part)]} for part in parts),
    )
    assert found == [row for each in alone for row in each]
    exact = [causal_attention(part, 2) if "causal" in way else attention(part) for part in parts]
    np.testing.assert_allclose(found, np.concatenate(exact), atol=0.05)


@pytest.mark.parametrize("way", WAYS)
def test_products_of_attention_are_compiled_for_few_lengths(ask: Ask, way: dict[str, Any]) -> None:
    """PyTorch's kernel kept some for each length of a text in each thread, for good."""
    question = {"ask": "computed_lengths", "lengths": list(range(1, 200)), **way}
    (found,) = ask(question)
    assert found == [*range(1, 33), 64, 96, 128, 160, 192, 224]


def test_attention_in_float32_computes_each_length_as_it_is(ask: Ask) -> None:
    question = {"ask": "computed_lengths", "dtype": "float32", "lengths": [33, 65, 100]}
    assert ask(question, {**question, "intel": True}) == [[33, 65, 100]] * 2


@pytest.mark.parametrize("intel", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("keys", [[1.0] * 6, [1.0, 1.25, 1.5, 1.75, 2.0, 3.0]])
@pytest.mark.parametrize("scores", [[-256.0] * 6, [256.0] * 6, [-256.0, 0.0, 256.0] * 2])
def test_attention_of_scores_far_from_zero(
    ask: Ask, keys: list[float], scores: list[float], dtype: str, intel: bool
) -> None:
    """Powers of two of such scores leave the range of both formats; softmax does not."""
    rows = np.zeros((6, 24), dtype=np.float32)
    rows[:, 0], rows[:, 4] = 2 * np.array(scores), 2 * np.array(scores)[::-1]
    rows[:, 8] = rows[:, 12] = keys
    rows[:, 16:] = RANDOM.integers(-8, 9, (6, 8))
    question = {"ask": "attended", "states": rows.tolist(), "lengths": [6], "dtype": dtype}
    (found,) = ask({**question, "intel": intel})
    np.testing.assert_allclose(found, attention(rows), rtol=0.01, atol=0.02)


@pytest.mark.parametrize("answer_format", ["float", "base64"])
def test_an_answer_is_what_fastapi_would_have_written(ask: Ask, answer_format: str) -> None:
    numbers = RANDOM.standard_normal(5).astype(np.float32).astype(float).tolist()
    question = {"ask": "written", "numbers": numbers, "answer_format": answer_format}
    (found,) = ask(question)
    assert found["ours"] == found["theirs"]
    assert list(found["ours"]) == list(found["theirs"])
    assert len(found["ours"]["data"]) == 2
    assert (found["status"], found["type"]) == (200, "application/json")
    assert found["left"]


CALLS: list[dict[str, Any]] = [
    {"input": "one text"},
    {"input": ["one text", "another"], "encoding_format": "base64"},
    {"input": ["a", "b"], "encoding_format": "float", "dimensions": 2},
    {"input": [5, 6, 7]},
    {"input": [[5, 6, 7], [8]]},
    {"input": " "},
    {"input": "too long"},
    {"input": ["fine", "broken"]},
    {"input": "x", "encoding_format": "int8"},
    {"input": "x", "dimensions": "many"},
    {},
]


@pytest.mark.parametrize("call", CALLS, ids=json.dumps)
def test_sglangs_handler_answers_the_guards_short_way_as_fastapis(
    ask: Ask, call: dict[str, Any]
) -> None:
    (found,) = ask({"ask": "two_ways", "document": {"model": "tiny", **call}})
    if found["short"] is None:  # what the handler's own type refuses, FastAPI words
        assert found["whole"]["status"] in (400, 422)
        return
    assert found["short"] == found["whole"]
    answered = found["whole"]["status"] == 200
    assert answered == (call in CALLS[:5])
    # Only the short way's conversion is done by the thread that waits for it.
    assert found["own_thread"] in ([False, True], [])


def test_the_first_vector_that_is_not_finite_is_told(ask: Ask) -> None:
    good, bad = [0.5, -1.0], [0.5, None]
    numbers = {"ask": "first_odd", "vectors": [good, bad, bad]}
    assert ask(numbers, {"ask": "first_odd", "vectors": [good]}) == [1, None]


def test_vectors_go_straight_to_the_front_and_all_else_by_the_detokenizer(ask: Ask) -> None:
    (found,) = ask({"ask": "ways_of_results"})
    assert found["sent"] == [
        ["front", "BatchEmbeddingOutput"],
        ["detokenizer", "BatchEmbeddingOutput"],  # of one of several fronts
        ["detokenizer", "FreezeGCReq"],
    ]
    assert found["socket"] == "detokenizer"


def test_the_controller_sleeps_until_something_comes(ask: Ask) -> None:
    late, *soon = ask(*({"ask": "waited", "after_s": after_s} for after_s in (100, 0.2, 0.2, 0.2)))
    assert 0.9 < late["seconds"] < 60  # its watchdog is fed once a second, come what may
    assert all(each["seconds"] > 0.1 for each in soon)
    assert min(each["seconds"] for each in soon) < 1  # one of three, beside other work
    assert late["fed"] == soon[0]["fed"] == 1


def test_the_controller_s_loop_is_the_one_that_is_made_to_sleep(ask: Ask) -> None:
    (source,) = ask({"ask": "controller_source"})
    fed, asked = source.index("self.soft_watchdog.feed()"), source.index("self.recv_from_tokenizer")
    assert fed < asked
    assert "NOBLOCK" in source[asked:]


def test_the_scheduler_s_queue_is_the_one_that_batches_are_taken_from(ask: Ask) -> None:
    (found,) = ask({"ask": "scheduler_source"})
    chosen = found["loop"].index("self.get_next_batch_to_run(")
    assert chosen < found["loop"].index("self.last_batch = batch")
    assert "self.waiting_queue = [" in found["choice"]
    assert found["arguments"][0] == "self"
    assert found["batch"] is True


def test_schedulers_that_share_a_call_get_one_message_each(ask: Ask) -> None:
    """The controller handed texts out one by one: each scheduler computed its first alone."""
    (found,) = ask({"ask": "handed_out", "count": 5, "workers": 2})
    call, kind = "BatchTokenizedEmbeddingReqInput", ["DPControllerReqTimeStats"]
    assert found == [[[call, [0, 2, 4], kind]], [[call, [1, 3], kind]]]
    (found,) = ask({"ask": "handed_out", "count": 1, "workers": 2})
    assert found == [[["TokenizedEmbeddingReqInput", [0], kind]], []]


def test_a_text_alone_goes_to_the_scheduler_with_the_least_to_do(ask: Ask) -> None:
    """In turn, one that fell behind kept its clients waiting while another had nothing to do."""
    asked = {"ask": "handed_out_alone", "workers": 2, "health": "HEALTH_CHECK_1"}
    (found,) = ask({**asked, "tokens": [300, 20, 20, 20]})
    assert found == {"sent": [["0", "HEALTH_CHECK_1"], ["1", "2", "3"]], "tokens": [300, 60]}


def test_a_text_that_was_begun_in_another_batch_is_left_to_the_stock_layer(ask: Ask) -> None:
    rows = RANDOM.standard_normal((4, 24)).astype(np.float32).tolist()
    (found,) = ask({"ask": "attended", "states": rows, "lengths": [2, 2], "prefixes": [0, 3]})
    assert found == {"error": "LookupError", "message": "the stock layer was asked"}


def test_attention_over_whole_texts_is_for_engines_that_keep_them_whole(ask: Ask) -> None:
    said = ask(
        *(
            {"ask": "why_not_whole", **settings}
            for settings in (
                {},
                {"chunked_prefill_size": None},
                {"chunked_prefill_size": 2048},
                {"disable_radix_cache": False},
                {"attention_backend": "triton"},
            )
        )
    )
    assert said[:2] == [None, None]
    assert said[2:] == [
        "no, texts are cut into chunks of 2048",
        "no, the prefix cache is on",
        "no, triton on cpu has an attention of its own",
    ]


def test_on_a_gpu_only_who_asks_for_torch_s_kernels_gets_this_attention(ask: Ask) -> None:
    """On Turing: nobody's default, and SGLang 0.5.1.post2 keeps its settings elsewhere."""
    card = {"ask": "why_not_whole", "device": "cuda"}
    said = ask(
        card, card | {"old": True}, card | {"old": True, "attention_backend": "triton"},
        card | {"attention_backend": "flashinfer"},
    )  # fmt: skip
    assert said == [
        None, None, "no, triton on cuda has an attention of its own",
        "no, flashinfer on cuda has an attention of its own",
    ]  # fmt: skip


def test_pages_of_loaded_weights_are_given_back_and_nothing_else(ask: Ask, tmp_path: Path) -> None:
    model = make_bert(tmp_path / "model", hidden=256, layers=2)
    size = (model / "model.safetensors").stat().st_size
    (found,) = ask({"ask": "loaded", "path": str(model / "model.safetensors")})
    assert found["before"] > size / 2
    assert found["after"] < found["before"] / 4
    assert found["same"]
    assert found["own"] == (1 << 20) * ((1 << 20) - 1) / 2


def test_a_head_is_read_as_the_checkpoint_says(ask: Ask, tmp_path: Path) -> None:
    made = [
        make_bert(tmp_path / "mean", pooling="mean"),
        make_bert(tmp_path / "new", pooling="last", new_spelling=True, normalize=False),
        make_bert(tmp_path / "dense", pooling="max", dense=4),
        make_bert(tmp_path / "bare"),
        make_bert(tmp_path / "stray", pooling="mean"),
        make_bert(tmp_path / "two", pooling="mean"),
    ]
    for name in ("modules.json", "1_Pooling/config.json"):
        (tmp_path / "bare" / name).unlink()
    (tmp_path / "stray" / "modules.json").unlink()
    # In the file's order last comes first; sentence-transformers joins cls, max, mean, last.
    both = {"pooling_mode_lasttoken": True, "pooling_mode_cls_token": True}
    pooling_config(tmp_path / "two", both)
    mean, new, dense, bare, stray, two = ask(*({"ask": "head", "path": str(p)} for p in made))
    assert mean == {"modes": ["mean"], "dense": [], "normalize": True}
    assert new == {"modes": ["last"], "dense": [], "normalize": False}
    assert dense == {"modes": ["max"], "dense": ["2_Dense"], "normalize": True}
    assert bare == {"modes": ["cls"], "dense": [], "normalize": True}
    assert stray == {"modes": ["mean"], "dense": [], "normalize": True}
    assert two["modes"] == ["cls", "last"]


def test_what_cannot_be_served_right_is_refused(ask: Ask, tmp_path: Path) -> None:
    configs: dict[str, dict[str, Any]] = {
        "weighted": {"pooling_mode_weightedmean_tokens": True},
        "unknown": {"pooling_mode": "attention"},
        "none": {"pooling_mode_mean_tokens": False},
        "prompt": {"pooling_mode_mean_tokens": True, "include_prompt": False},
        "first": {"pooling_mode_cls_token": True, "include_prompt": False},
    }
    for name, config in configs.items():
        pooling_config(make_bert(tmp_path / name, pooling="mean"), config)
    listing = make_bert(tmp_path / "layernorm", pooling="mean") / "modules.json"
    modules = json.loads(listing.read_text())
    extra = {"type": "sentence_transformers.models.LayerNorm", "path": "3_LayerNorm"}
    listing.write_text(json.dumps([*modules, extra]))
    names = [*configs, "layernorm"]
    for name, found in zip(
        names, ask(*({"ask": "head", "path": str(tmp_path / n)} for n in names)), strict=True
    ):
        assert found["error"] == "ValueError", name
        assert str(tmp_path / name) in found["message"]
    last = {"pooling_mode_lasttoken": True, "include_prompt": False}
    pooling_config(tmp_path / "prompt", last)
    (fine,) = ask({"ask": "head", "path": str(tmp_path / "prompt")})
    assert fine["modes"] == ["last"]  # the last token is never the prompt's


def test_the_pooler_answers_as_sglang_s_does(ask: Ask, tmp_path: Path) -> None:
    mean = make_bert(tmp_path / "mean", pooling="mean", hidden=8, heads=2)
    raw = make_bert(tmp_path / "raw", pooling="cls", hidden=8, heads=2, normalize=False)
    question = {
        "ask": "served",
        "path": str(mean),
        "states": STATES.tolist(),
        "lengths": LENGTHS,
    }
    found = ask(
        question,
        {**question, "path": str(raw)},
        {**question, "dimensions": [4, 4, 4]},
        {**question, "dimensions": [4, None, 2]},
        {**question, "padding": 3},
        {**question, "on_device": True},
        {**question, "old": True},
    )
    plain = normalized(expected("mean"))
    np.testing.assert_allclose(found[0], plain, rtol=1e-5)
    np.testing.assert_allclose(found[1], expected("cls"), rtol=1e-5)
    np.testing.assert_allclose(found[2], normalized(expected("mean")[:, :4]), rtol=1e-5)
    assert [len(vector) for vector in found[3]] == [4, 8, 2]
    np.testing.assert_allclose(found[3][2], normalized(expected("mean")[2, :2]), rtol=1e-5)
    for other in found[4:]:
        assert other == found[0]


def test_a_dense_head_is_applied_in_float32(ask: Ask, tmp_path: Path) -> None:
    model = make_bert(tmp_path / "dense", pooling="mean", hidden=8, heads=2, dense=5)
    question = {"ask": "served", "path": str(model), "states": STATES.tolist(), "lengths": LENGTHS}
    config = model / "2_Dense" / "config.json"
    (tanh,) = ask(question)
    said = json.loads(config.read_text())
    config.write_text(
        json.dumps(said | {"activation_function": "torch.nn.modules.linear.Identity"})
    )
    (linear,) = ask(question)
    config.write_text(json.dumps(said | {"activation_function": "some.package.Softest"}))
    (unknown,) = ask(question)
    weight, bias = dense_weights(model / "2_Dense" / "model.safetensors", 8, 5)
    values = expected("mean") @ weight.T + bias
    np.testing.assert_allclose(linear, normalized(values), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(tanh, normalized(np.tanh(values)), rtol=1e-4, atol=1e-6)
    assert "some.package.Softest is not supported" in unknown["message"]


def test_every_activation_is_the_references(ask: Ask, tmp_path: Path) -> None:
    model = make_bert(tmp_path / "dense", pooling="mean", hidden=8, heads=2, dense=5)
    question = {"ask": "served", "path": str(model), "states": STATES.tolist(), "lengths": LENGTHS}
    config = model / "2_Dense" / "config.json"
    said = json.loads(config.read_text())
    weight, bias = dense_weights(model / "2_Dense" / "model.safetensors", 8, 5)
    values = expected("mean") @ weight.T + bias
    for name in sorted(ACTIVATIONS):
        config.write_text(json.dumps(said | {"activation_function": f"torch.nn.{name}"}))
        (found,) = ask(question)
        wanted = np.array([activate(name, each) for each in values.astype(float)])
        lengths = np.linalg.norm(wanted, axis=1, keepdims=True)
        wanted /= np.maximum(lengths, 1e-12)  # a Hardshrink of small numbers is zero
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6, err_msg=name)


def dense_weights(
    file: Path, width: int, out: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])

    def tensor(name: str, *shape: int) -> NDArray[np.float32]:
        begin, end = header[name]["data_offsets"]
        return np.frombuffer(data[8 + size + begin : 8 + size + end], np.float32).reshape(shape)

    return tensor("linear.weight", out, width), tensor("linear.bias", out)


def test_forking_is_refused_wherever_it_is_unsafe(ask_anew: Ask) -> None:
    question = {"ask": "why_not_fork", "device": "cpu"}
    safe, cuda, unknown, thread, context, native = ask_anew(
        question,
        {**question, "device": "cuda"},
        {**question, "device": None},
        {**question, "beside": "thread"},
        {**question, "beside": "cuda"},
        {**question, "beside": "openmp"},
    )
    assert safe is None
    assert cuda == "the device is cuda, not cpu"
    assert unknown == "the device is None, not cpu"
    assert thread == "other threads are running: a-busy-thread"
    assert context == "a CUDA context exists"
    assert native.endswith("native threads are running")


def test_the_kernels_stand_in_names_the_operator(ask: Ask) -> None:
    called, dunder, operators, module = ask(
        {"ask": "call_kernel", "name": "gemma_rmsnorm"},
        {"ask": "call_kernel", "name": "__wrapped__"},
        {"ask": "registry_operators"},
        {"ask": "submodule", "name": "flash_attn"},
    )
    assert called["error"] == "NotImplementedError"
    assert "gemma_rmsnorm" in called["message"]
    assert dunder["error"] == "AttributeError"
    assert operators is False
    assert module["error"] == "ModuleNotFoundError"

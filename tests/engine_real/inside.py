"""Runs with the engine's Python: answers questions about the plugin, one JSON document a line.

A question is `{"ask": NAME, ...}`; its answer is a value, or `{"error": TYPE, "message": TEXT}`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock


def pooled(mode: str, states: list[list[float]], lengths: list[int], dtype: str = "float32") -> Any:
    """`pool` over these token states."""
    import torch
    from qlaunch_sglang.pooling import pool

    found = pool(mode, torch.tensor(states, dtype=getattr(torch, dtype)), lengths)
    return {"dtype": str(found.dtype), "vectors": found.tolist()}


def head(path: str) -> Any:
    """What the plugin reads from a checkpoint."""
    from qlaunch_sglang.pooling import read_head

    found = read_head(Path(path))
    return {
        "modes": found.modes,
        "dense": [folder.name for folder in found.dense],
        "normalize": found.normalize,
    }


def half(factor: float) -> Any:
    """A float16 decoder whose feed-forward blocks give numbers of about `factor`.

    Returns:
        How its states agree with the same decoder's in float32 (the least cosine of a token, with
        the huge column and without it), as the plugin computes them and as SGLang's own layers
        would; None where a number is not finite.
    """
    import torch
    from half_model import HUGE, Model, plain  # type: ignore[import-not-found]  # beside this script
    from qlaunch_sglang.half import keep_float32

    exact, ours = Model(factor), Model(factor).half()
    keep_float32(ours)
    ids, positions = torch.arange(24), torch.arange(24)
    right = plain(exact, ids, positions)

    def agreement(states: Any) -> float | None:
        if not states.isfinite().all():
            return None
        rest = torch.arange(states.shape[1]) != HUGE
        parts = (states, right), (states[:, rest], right[:, rest])
        return min(float(torch.cosine_similarity(a.double(), b.double()).min()) for a, b in parts)

    found = ours.forward(ids, positions, None)
    stock = plain(Model(factor).half(), ids, positions)
    return {"ours": agreement(found), "plain": agreement(stock), "dtype": str(found.dtype)}


def served(
    path: str,
    states: list[list[float]],
    lengths: list[int],
    *,
    dimensions: list[int | None] | None = None,
    padding: int = 0,
    on_device: bool = False,
    old: bool = False,
) -> Any:
    """The whole pooler of a checkpoint, called as SGLang calls it.

    Args:
        padding: rows of a padded batch that belong to no request.
        on_device: lengths come as a tensor alone, as in a captured graph.
        old: the batch is of a release that knows no `dimensions`.
    """
    import torch
    from qlaunch_sglang.pooling import CheckpointPooler

    os.environ["QLAUNCH_MODEL_PATH"] = path
    batch = SimpleNamespace(
        extend_seq_lens=torch.tensor(lengths),
        extend_seq_lens_cpu=None if on_device else lengths,
        **({} if old else {"dimensions": dimensions}),
    )
    rows = torch.tensor(states)
    if padding:
        rows = torch.cat([rows, torch.full((padding, rows.shape[1]), 7.0)])
    found = CheckpointPooler.for_model(None)(rows, batch).embeddings
    return [vector.tolist() for vector in found]


def attended(
    states: list[list[float]],
    lengths: list[int],
    *,
    prefixes: list[int] | None = None,
    dtype: str = "float32",
    scores: int | None = None,
    kv_heads: int = 2,
    causal: bool = False,
    intel: bool = False,
    padding: int = 0,
) -> Any:
    """Two heads of 4 over rows [q, k, v] of 24 (16 with one key head), texts one after the other.

    With `prefixes` the stock layer would be asked: it is replaced by one that says so. `intel`: as
    on a processor of Intel's. `padding`: rows at the end that belong to no text.
    """
    import torch
    from qlaunch_sglang import attention
    from sglang.srt.layers.radix_attention import AttentionType

    class Stock(attention.WholeTextAttention.__base__):  # type: ignore[misc]
        def forward(self, *given: Any, **more: Any) -> Any:
            raise LookupError("the stock layer was asked")

    kept = attention.WholeTextAttention.__bases__
    attention.WholeTextAttention.__bases__ = (Stock,)
    try:
        layer = attention.WholeTextAttention(
            num_heads=2,
            head_dim=4,
            scaling=0.5,
            num_kv_heads=kv_heads,
            layer_id=0,
            attn_type=AttentionType.DECODER if causal else AttentionType.ENCODER_ONLY,
        )
        batch = SimpleNamespace(
            extend_seq_lens_cpu=lengths,
            extend_prefix_lens_cpu=prefixes or [0] * len(lengths),
            padding=padding,
        )
        q, k, v = torch.tensor(states, dtype=getattr(torch, dtype)).split(
            [8, 4 * kv_heads, 4 * kv_heads], dim=-1
        )
        most = scores or attention.SCORES
        with (
            mock.patch.object(attention, "intel", return_value=intel),
            mock.patch.object(attention, "SCORES", most),
        ):
            return layer(q, k, v, batch).tolist()
    finally:
        attention.WholeTextAttention.__bases__ = kept


def computed_lengths(*, dtype: str, lengths: list[int], **question: Any) -> Any:
    """The lengths of which products are computed, by whichever way, in `attended` of such texts."""
    import torch
    from qlaunch_sglang import attention

    kernel, scores = attention.scaled_dot_product_attention, attention._scores
    seen = set()

    def by_kernel(query: Any, *given: Any, **more: Any) -> Any:
        seen.add(query.shape[2])
        return kernel(query, *given, **more)

    def by_powers(q: Any, *given: Any) -> Any:
        seen.add(q.shape[1])
        return scores(q, *given)

    states = torch.zeros(sum(lengths), 24).tolist()
    with (
        mock.patch.object(attention, "scaled_dot_product_attention", by_kernel),
        mock.patch.object(attention, "_scores", by_powers),
    ):
        attended(states, lengths, dtype=dtype, **question)
    return sorted(seen)


def why_not_whole(*, old: bool = False, **settings: Any) -> Any:
    """The plugin's verdict on a server started like this; `old`: by SGLang 0.5.1.post2."""
    import types

    from qlaunch_sglang import attention
    from sglang.srt import runtime_context

    device = settings.pop("device", "cpu")
    usual = {
        "attention_backend": "torch_native",
        "disable_radix_cache": True,
        "chunked_prefill_size": -1,
    }
    if old:
        names = ("sglang.srt.runtime_context", "sglang.srt.managers.schedule_batch")
        there = {name: sys.modules.get(name) for name in names}
        sys.modules[names[0]] = None  # type: ignore[assignment]  # cannot be imported
        sys.modules[names[1]] = types.ModuleType(names[1])
        sys.modules[names[1]].global_server_args_dict = usual | settings  # type: ignore[attr-defined]
        try:
            return attention._why_not(device)
        finally:
            for name, module in there.items():
                sys.modules.pop(name)
                if module is not None:
                    sys.modules[name] = module
    kept = runtime_context.get_server_args
    runtime_context.get_server_args = lambda: SimpleNamespace(**usual | settings)
    try:
        return attention._why_not(device)
    finally:
        runtime_context.get_server_args = kept


def layers(way: str, lengths: list[int], *, seed: int = 3, **broken: Any) -> Any:
    """Two encoder layers of 32 columns as SGLang writes them: their states before and after `way`.

    Args:
        way: `packed` or `int8`.
        lengths: tokens of each text.
        broken: another `activation`, or `partial`: an attention that is not over whole texts; or
            another `dtype` than bfloat16; or `least` and `most` tokens of a portion; or the dtype
            of float32's `weights`; or a `huge` number in the first one.
    """
    import torch
    from inside_model import Model  # type: ignore[import-not-found]  # beside this script
    from qlaunch_sglang import int8, packed, portions

    portions.LEAST, portions.MOST = broken.get("least", 128), broken.get("most", 512)
    torch.manual_seed(seed)
    model = Model(whole=not broken.get("partial")).to(
        getattr(torch, broken.get("dtype", "bfloat16"))
    )
    if broken.get("activation") == "relu":
        for layer in model.encoder.layer:
            layer.intermediate.intermediate_act_fn = torch.nn.functional.relu
    if "weights" in broken:  # they were made in bfloat16, which float16 holds exactly
        for layer in model.encoder.layer:
            for linear in int8.linears(layer):
                linear.weight.data.mul_(1.0003)
    if "huge" in broken:
        model.encoder.layer[0].attention.self_attn.qkv_proj.weight.data[70, 0] = broken["huge"]
    texts = [torch.randint(0, 50, (length,)).tolist() for length in lengths]
    given = int8.batch_of(texts)
    with torch.no_grad():
        before = model(*given, get_embedding=True)
        int8.tokenized = lambda _: [torch.randint(0, 50, (n,)).tolist() for n in (4, 9, 30, 60)]
        os.environ.update(QLAUNCH_DTYPE=way, QLAUNCH_MODEL_PATH="/")
        os.environ["QLAUNCH_WEIGHTS"] = broken.get("weights", "float32")
        packed.pack_layers(model, model.encoder, broken.get("activation", "gelu"))
        parts = list(model.encoder.layer[0].modules())
        kinds = [type(part).__name__ for part in parts]
        linears = [
            getattr(part, "linear", None) or getattr(part, "product", None) for part in parts
        ]
        after = model(*given, get_embedding=True)
        alone = [model(*int8.batch_of([text]), get_embedding=True) for text in texts]
    return {
        "before": before.float().tolist(),
        "after": after.float().tolist(),
        "alone": torch.cat(alone).float().tolist(),
        "kinds": kinds,
        "rounded_up": getattr(model.encoder.forward, "_round_up", None),
        "linears": [type(each).__name__ for each in linears if each is not None],
        "kept": sum(p.numel() for name, p in model.named_parameters() if name.endswith("e.weight")),
    }


def pooled_in_portions(lengths: list[int], modes: list[str], types: bool, most: int) -> Any:
    """Vectors of texts in a batch, from their tokens on: in portions, and one text after the other;
    in how many portions they were computed, and where a batch is left whole, None."""
    import torch
    from inside_model import Model
    from qlaunch_sglang import int8, packed, pooling, portions

    portions.LEAST, portions.MOST, usual = 1, most, torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(3)
    model = Model(whole=True).to(torch.float32)
    os.environ.update(QLAUNCH_DTYPE="float32", QLAUNCH_WEIGHTS="float32")
    packed.pack_layers(model, model.encoder, "gelu")
    kinds = torch.nn.Embedding(2, 32)
    pooler = pooling.CheckpointPooler(modes, [], True)
    parts: list[int] = []

    def answered(given: Any, token_types: Any) -> Any:
        ids, _, batch = given
        batch.token_type_ids = token_types

        def embed(start: int, end: int, texts: list[int]) -> Any:
            parts.append(len(texts))
            its = portions.token_types(batch, start, end).token_type_ids
            states = model.words(ids[start:end])
            return states if its is None else states + kinds(its)

        found = portions.by_portions(model.encoder, pooler, len(ids), batch, embed)
        if found is not None:
            return found.embeddings
        states = model.encoder.forward(embed(0, len(ids), lengths), batch)
        return None if len(batch.extend_seq_lens_cpu) > 1 else pooler(states, batch).embeddings

    texts = [torch.randint(0, 50, (length,)).tolist() for length in lengths]
    marks = [torch.randint(0, 2, (length,)) for length in lengths]
    with torch.no_grad():
        together = answered(int8.batch_of(texts), torch.cat(marks) if types else None)
        shared = list(parts)
        alone = [
            answered(int8.batch_of([text]), mark if types else None)
            for text, mark in zip(texts, marks, strict=True)
        ]
    torch.set_num_threads(usual)
    return {
        "together": None if together is None else together.tolist(),
        "alone": torch.cat(alone).tolist(),
        "portions": sorted(shared),
    }


def portions_threads(batches: int) -> Any:
    """After so many batches in portions: the compute threads of each of their threads, those of
    this one, and by how many the process's threads grew beyond the two that take portions."""
    import torch
    from inside_model import Model
    from qlaunch_sglang import int8, packed, portions

    portions.LEAST, usual = 1, torch.get_num_threads()
    torch.set_num_threads(2)
    model = Model(whole=True).to(torch.float32)
    os.environ.update(QLAUNCH_DTYPE="float32", QLAUNCH_WEIGHTS="float32")
    packed.pack_layers(model, model.encoder, "gelu")
    with torch.no_grad():
        model(*int8.batch_of([[1] * 500]), get_embedding=True)
        before = len(list(Path("/proc/self/task").iterdir()))
        for _ in range(batches):
            model(*int8.batch_of([[1] * 500, [2] * 500]), get_embedding=True)
    pool = model.encoder.forward._workers
    found = {
        "of_each": [pool.submit(torch.get_num_threads).result() for _ in range(4)],
        "of_all": torch.get_num_threads(),
        "more": len(list(Path("/proc/self/task").iterdir())) - before - 2,
    }
    torch.set_num_threads(usual)
    return found


def whole_steps(factors: list[float]) -> Any:
    """Rows of random numbers times these factors, in 8-bit integers: how far a product of 5 tokens
    is off in each, as a share of the sizes that are added up."""
    import torch
    from qlaunch_sglang import int8

    torch.manual_seed(5)
    weight = torch.randn(len(factors), 64) * torch.tensor(factors).unsqueeze(1)
    x, dense = torch.randn(5, 64), torch.nn.Linear(64, len(factors))
    dense.weight.data, dense.bias.data = weight.clone(), torch.zeros(len(factors))
    seen = int8.Seen()
    seen.add(x)
    exact, sizes = x.double() @ weight.double().T, x.double().abs() @ weight.double().abs().T
    off = (int8.Int8Linear(dense, seen, smooth=False)(x) - exact).abs() / sizes.clamp(min=1e-300)
    return {"off": off.amax(dim=0).tolist()}


def halved(factors: list[float]) -> Any:
    """Rows of random numbers times these factors, kept in float16: how far a product of 5 tokens is
    off in each, as a share of the sizes that are added up."""
    import torch
    from qlaunch_sglang import packed

    torch.manual_seed(5)
    os.environ["QLAUNCH_WEIGHTS"] = "float16"
    weight = torch.randn(len(factors), 64) * torch.tensor(factors).unsqueeze(1)
    bias, x = torch.randn(len(factors)) * torch.tensor(factors), torch.randn(5, 64)
    linear = packed.linear_of(weight.clone(), bias)
    exact = x.double() @ weight.double().T + bias.double()
    sizes = x.double().abs() @ weight.double().abs().T + bias.double().abs()
    off = ((linear(x).double() - exact).abs() / sizes.clamp(min=1e-300)).amax(0)
    scaled = getattr(linear, "_by", None) is not None
    return {"kind": type(linear).__name__, "off": off.tolist(), "scaled": scaled}


def decoder(*, intel: bool = False, **question: Any) -> Any:
    """A small decoder by the plugin's layers: see decoder_model.py. `intel`: as on one of its
    processors."""
    from decoder_model import decoded  # type: ignore[import-not-found]  # beside this script
    from qlaunch_sglang import attention

    with mock.patch.object(attention, "intel", return_value=intel):
        return decoded(**question)


def packs_bfloat16() -> bool:
    """Whether oneDNN lays out bfloat16 weights on this processor, under the masks it is given."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def written(numbers: list[float], answer_format: str = "float") -> Any:
    """An answer of SGLang's as FastAPI would write it, and as the plugin does."""
    import base64
    import struct

    from fastapi.encoders import jsonable_encoder  # type: ignore[import-not-found]
    from qlaunch_sglang import answers
    from sglang.srt.entrypoints.openai import protocol

    packed = base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
    response = protocol.EmbeddingResponse(
        data=[
            protocol.EmbeddingObject(
                embedding=packed if answer_format == "base64" else numbers, index=index
            )
            for index in range(2)
        ],
        model="/a/model",
        usage=protocol.UsageInfo(prompt_tokens=5, total_tokens=5),
    )
    ours = answers.written(response)
    other = object()
    return {
        "theirs": jsonable_encoder(response),
        "ours": json.loads(ours.body),
        "type": ours.headers["content-type"],
        "status": ours.status_code,
        "left": answers.written(other) is other,
    }


def two_ways(**question: Any) -> Any:
    """A call to SGLang's application, FastAPI's way and the guard's: see two_ways.py."""
    from two_ways import asked  # type: ignore[import-not-found]  # beside this script

    return asked(**question)


def first_odd(vectors: list[list[float | None]]) -> Any:
    """The first of these vectors that the plugin takes for not finite; None stands for NaN."""
    from qlaunch_sglang import answers

    nan = float("nan")
    made = [{"embedding": [nan if each is None else each for each in one]} for one in vectors]
    return answers.odd(None, made, "float")


def ways_of_results() -> Any:
    """Who is sent what by a scheduler's two senders, as the plugin sorts them."""
    from dataclasses import dataclass

    from qlaunch_sglang import straight
    from sglang.srt.managers import io_struct

    sent: list[tuple[str, str]] = []

    @dataclass(frozen=True)
    class Channels:
        send_to_tokenizer: Any
        send_to_detokenizer: Any

    def sender(name: str) -> Any:
        def send_output(output: Any, recv_obj: Any = None) -> None:
            sent.append((name, type(output).__name__))

        return SimpleNamespace(send_output=send_output, socket=name)

    def embeddings(fronts: list[str | None]) -> Any:
        return io_struct.BatchEmbeddingOutput(
            rids=["a"],
            http_worker_ipcs=fronts,
            finished_reasons=[None],
            embeddings=[[1.0]],
            prompt_tokens=[1],
            cached_tokens=[0],
            placeholder_tokens_idx=None,
            placeholder_tokens_val=None,
        )

    made = Channels(sender("front"), sender("detokenizer"))
    channels = straight._around(lambda *_given, **_more: made)
    channels.send_to_detokenizer.send_output(embeddings([None]))
    channels.send_to_detokenizer.send_output(embeddings(["ipc:///one/of/several"]))
    channels.send_to_detokenizer.send_output(io_struct.FreezeGCReq(), None)
    return {"sent": sent, "socket": channels.send_to_detokenizer.socket}


def waited(after_s: float) -> Any:
    """Seconds that the controller's watchdog waited for a message sent `after_s` later, and fed."""
    import time

    import zmq  # type: ignore[import-not-found]  # the engine has it
    from qlaunch_sglang import calm_controller

    context = zmq.Context()
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    push.connect(f"tcp://127.0.0.1:{pull.bind_to_random_port('tcp://127.0.0.1')}")
    fed: list[int] = []
    controller = SimpleNamespace(
        recv_from_tokenizer=pull, soft_watchdog=SimpleNamespace(feed=lambda: fed.append(1))
    )

    def loop(given: Any) -> Any:
        began = time.monotonic()
        given.soft_watchdog.feed()
        return time.monotonic() - began

    timer = threading.Timer(after_s, lambda: push.send(b"x"))
    timer.start()
    seconds = calm_controller._around(loop, controller)
    timer.cancel()
    timer.join()
    pull.close(0)
    push.close(0)
    context.term()
    return {"seconds": seconds, "fed": len(fed)}


def _tokenized(rid: str, tokens: int = 1) -> Any:
    """A text as SGLang's front sends it to its controller."""
    from array import array

    from sglang.srt.managers import io_struct
    from sglang.srt.observability.req_time_stats import APIServerReqTimeStats

    text = io_struct.TokenizedEmbeddingReqInput(
        rid=rid,
        input_text=None,
        input_ids=array("q", range(tokens)),
        mm_inputs=None,
        token_type_ids=None,
        sampling_params=None,
        time_stats=APIServerReqTimeStats(),
    )
    text.wrap_pickle_fields()
    return text


def _controller(workers: int) -> tuple[Any, list[list[Any]]]:
    """SGLang's controller with so many schedulers, and what is sent to each of them."""
    import pickle

    from sglang.srt.managers.data_parallel_controller import (
        DataParallelController,
        DPBudget,
        LoadBalanceMethod,
    )

    sent: list[list[Any]] = [[] for _ in range(workers)]

    def socket(messages: list[Any]) -> Any:
        def send(message: Any, **_: Any) -> None:
            messages.append(pickle.loads(pickle.dumps(message)))

        return SimpleNamespace(send_pyobj=send)

    controller = DataParallelController.__new__(DataParallelController)
    controller.__dict__.update(
        workers=[socket(messages) for messages in sent],
        refresh_load_budget_on_dispatch=False,
        round_robin_counter=0,
        health_round_robin_counter=0,
        status=[True] * workers,
        _active_workers=list(range(workers)),
        dispatching=controller.round_robin_scheduler,
        load_balance_method=LoadBalanceMethod.ROUND_ROBIN,
        dp_budget=DPBudget(workers),
        load_snapshot_reader=SimpleNamespace(read_all=list),
        _last_refresh_time=0.0,
    )
    return controller, sent


def handed_out(count: int, workers: int) -> Any:
    """What SGLang's controller sends to each of so many schedulers of a call with `count` texts."""
    from qlaunch_sglang import shared_calls
    from sglang.srt.managers import io_struct
    from sglang.srt.managers.data_parallel_controller import DataParallelController

    texts = [_tokenized(str(number)) for number in range(count)]
    controller, sent = _controller(workers)
    call = io_struct.BatchTokenizedEmbeddingReqInput(batch=texts)
    shared_calls._around(DataParallelController.dispatch_batch_embedding, controller, call)

    def told(message: Any) -> Any:
        requests = list(message) if hasattr(message, "batch") else [message]
        for request in requests:
            request.unwrap_pickle_fields()
        kinds = sorted({type(request.time_stats).__name__ for request in requests})
        return [type(message).__name__, [int(request.rid) for request in requests], kinds]

    return [[told(message) for message in messages] for messages in sent]


def handed_out_alone(tokens: list[int], workers: int, health: str) -> Any:
    """What SGLang's controller sends to each of so many schedulers, of texts with so many tokens
    that come one by one and then of a look at health; and the tokens that it counts of each."""
    from qlaunch_sglang import least_loaded
    from sglang.srt.managers.data_parallel_controller import DataParallelController

    controller, sent = _controller(workers)
    texts = [_tokenized(str(number), count) for number, count in enumerate(tokens)]
    for text in (*texts, _tokenized(health)):
        least_loaded._around(DataParallelController.dispatching_with_trace, controller, text)
    named = [[message.rid for message in messages] for messages in sent]
    return {"sent": named, "tokens": controller.dp_budget.total_tokens}


def controller_source() -> Any:
    """The loop that calm_controller.py relies on, as this SGLang writes it."""
    import inspect

    from sglang.srt.managers.data_parallel_controller import DataParallelController

    return inspect.getsource(DataParallelController.event_loop)


def scheduler_source() -> Any:
    """The loop and the choice that even_batches.py relies on, as this SGLang writes them."""
    import inspect

    from sglang.srt.managers.schedule_batch import ScheduleBatch
    from sglang.srt.managers.scheduler import Scheduler

    return {
        "loop": inspect.getsource(Scheduler.event_loop_normal),
        "choice": inspect.getsource(Scheduler._get_new_batch_prefill_raw),
        "arguments": list(inspect.signature(Scheduler.get_next_batch_to_run).parameters),
        "batch": "reqs" in ScheduleBatch.__dataclass_fields__,
    }


def loaded(path: str) -> Any:
    """Pages of a checkpoint in memory before and after its tensors are let go, and their sums."""
    import torch
    from qlaunch_sglang import loading
    from safetensors import safe_open  # type: ignore[import-not-found]  # the engine has it

    def resident() -> int:
        lines = iter(Path("/proc/self/smaps").read_text("utf-8").splitlines())
        for line in lines:
            if line.endswith(".safetensors"):
                return 1024 * int(next(at for at in lines if at.startswith("Rss:")).split()[1])
        return 0

    with safe_open(path, framework="pt", device="cpu") as file:
        given = [(name, file.get_tensor(name)) for name in file.keys()]  # noqa: SIM118
        sums = [float(tensor.double().sum()) for _, tensor in given]
        before = resident()
        own = torch.arange(1 << 20, dtype=torch.float32)
        passed = [name for name, _ in loading.released(iter([*given, ("own", own)]))]
        after = resident()
        again = [float(tensor.double().sum()) for _, tensor in given]
    return {
        "before": before,
        "after": after,
        "same": sums == again and passed == [*(name for name, _ in given), "own"],
        "own": float(own.double().sum()),
    }


def why_not_fork(device: str | None, beside: str = "nothing") -> str | None:
    """The plugin's verdict, with something going on beside it.

    What `openmp` starts stays: ask for it last.
    """
    import torch
    from qlaunch_sglang import fork_start

    stop, initialized = threading.Event(), torch.cuda.is_initialized
    thread = threading.Thread(target=stop.wait, name="a-busy-thread")
    if beside == "thread":
        thread.start()
    elif beside == "cuda":
        torch.cuda.is_initialized = lambda: True
    elif beside == "openmp":
        torch.set_num_threads(2)
        torch.ones(4096, 4096).sum()
    verdict: str | None = fork_start.why_not_fork(device)
    stop.set()
    torch.cuda.is_initialized = initialized
    if beside == "thread":
        thread.join()
    return verdict


def call_kernel(name: str) -> Any:
    """Calls an operator of the stand-in for `sgl_kernel`."""
    import sgl_kernel

    return getattr(sgl_kernel, name)(1, out=2)


def registry_operators() -> bool:
    """Whether torch believes that there are compiled kernels."""
    import sgl_kernel
    import torch

    return bool(sgl_kernel.QLAUNCH_STANDIN) and hasattr(torch.ops.sgl_kernel, "rmsnorm_cpu")


def submodule(name: str) -> None:
    """Imports a module below `sgl_kernel`."""
    import importlib

    importlib.import_module(f"sgl_kernel.{name}")


ASKS = {
    ask.__name__: ask
    for ask in (
        pooled,
        head,
        served,
        half,
        attended,
        computed_lengths,
        why_not_whole,
        layers,
        pooled_in_portions,
        portions_threads,
        whole_steps,
        halved,
        decoder,
        packs_bfloat16,
        written,
        two_ways,
        first_odd,
        ways_of_results,
        waited,
        handed_out,
        handed_out_alone,
        controller_source,
        scheduler_source,
        loaded,
        why_not_fork,
        call_kernel,
        registry_operators,
        submodule,
    )
}


def answer(question: dict[str, Any]) -> Any:
    """The answer to one question; a failure is an answer too."""
    ask = ASKS[question.pop("ask")]
    try:
        return ask(**question)
    except Exception as error:  # noqa: BLE001 - what it raises is what is asked
        return {"error": type(error).__name__, "message": str(error)}


def main() -> None:
    """Answer questions until there are no more; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with answers:
        for line in sys.stdin:
            answers.write(json.dumps(answer(json.loads(line))) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.argv import FlagValue
from launcher.config.profile import HardwareNeed
from launcher.documents.plan import MemoryPrediction
from launcher.engine import releases
from launcher.model.shape import DTYPE_BYTES
from launcher.plan import cuda_memory, memory
from launcher.plan.fit import Misfit, why_not_memory, why_not_on
from launcher.plan.memory import Knobs, knobs, kv_bytes_per_token, predict
from launcher.units import MIB
from tests.plan.inputs import checkpoint, qwen3
from tests.samples import GIB, gpu, machine

MINILM = {"max-total-tokens": 16384, "max-running-requests": 64, "max-prefill-tokens": 16384}
MINILM_ON_A_CARD: dict[str, FlagValue] = {
    **MINILM, "max-running-requests": 128, "chunked-prefill-size": -1,
}  # fmt: skip
PORTABLE: dict[str, FlagValue] = {
    "attention-backend": "torch_native", "chunked-prefill-size": -1,
    "disable-prefill-cuda-graph": True,
}  # fmt: skip
H100: dict[str, FlagValue] = {
    "context-length": 32768, "max-total-tokens": 131072, "max-running-requests": 512,
    "attention-backend": "fa3",
}  # fmt: skip
OFFLOAD: dict[str, FlagValue] = {
    "context-length": 4096, "max-total-tokens": 4096, "max-prefill-tokens": 4096,
    "chunked-prefill-size": 1024, "max-running-requests": 16, "cpu-offload-gb": 1,
    "disable-prefill-cuda-graph": True,
}  # fmt: skip


def terms(found: MemoryPrediction) -> dict[str, int]:
    return {term.name: term.bytes for term in found.terms}


class TestTerms:
    def test_minilm_in_bfloat16_by_hand(self) -> None:
        model = checkpoint()
        found = predict(
            model,
            knobs(MINILM, model),
            device="cpu",
            dtype="bfloat16",
            method="fork",
            kv_pool_bytes=0,
        )
        assert terms(found) == {
            "weights": 22_713_728 * 2,
            "KV cache": 16384 * (2 * 6 * 12 * 32 * 2),  # K and V, layers, heads, head size, bytes
            "request table": 65 * 512 * 4,
            "activations": 512 * (6 * 384 + 2 * 1536) * 2,
            "largest batch": (16384 - 512) * (6 * 384 + 2 * 1536) * 2,
            "engine: front (fork)": memory.CPU_BASE_BYTES["encoder"]["fork"]["front"],
            "engine: scheduler (fork)": memory.CPU_BASE_BYTES["encoder"]["fork"]["scheduler"],
            "engine: detokenizer (fork)": memory.CPU_BASE_BYTES["encoder"]["fork"]["detokenizer"],
        }
        assert found.ram_full_bytes == sum(terms(found).values())
        assert found.ram_bytes == found.ram_full_bytes - terms(found)["largest batch"]
        assert found.gpu_bytes is None

    def test_qwen3_takes_112_kib_a_token(self) -> None:
        assert kv_bytes_per_token(qwen3(), 2) == 112 * 1024
        assert kv_bytes_per_token(qwen3(), 4) == 224 * 1024

    def test_float32_doubles_what_depends_on_the_width(self) -> None:
        model = checkpoint()
        narrow, wide = (
            terms(
                predict(
                    model,
                    knobs(MINILM, model),
                    device="cpu",
                    dtype=dtype,
                    method="fork",
                    kv_pool_bytes=0,
                )
            )
            for dtype in ("bfloat16", "float32")
        )
        for name in ("weights", "KV cache", "activations"):
            assert wide[name] == 2 * narrow[name]
        assert wide["request table"] == narrow["request table"]

    def test_quantised_weights_are_taken_as_stored(self) -> None:
        model = qwen3(quantization="awq", weight_bytes=400_000_000)
        found = predict(
            model, knobs({}, model), device="cuda", dtype="float16", method="spawn", kv_pool_bytes=7
        )
        assert terms(found)["weights"] == 400_000_000

    def test_without_a_cap_the_engines_own_share_is_counted(self) -> None:
        model = qwen3()
        found = predict(
            model, knobs({}, model), device="cpu", dtype="bfloat16", method="spawn", kv_pool_bytes=7
        )
        assert terms(found)["KV cache"] == 7

    def test_a_gpu_holds_the_model_and_ram_the_processes(self) -> None:
        model = qwen3()
        sizes = knobs({"max-total-tokens": 8192}, model)
        found = predict(
            model, sizes, device="cuda", dtype="bfloat16", method="spawn", kv_pool_bytes=0
        )
        on_gpu = [term for term in found.terms if term.device == "gpu"]
        assert found.gpu_full_bytes == sum(term.bytes for term in on_gpu)
        assert {"weights", "KV cache", "CUDA context"} <= {term.name for term in on_gpu}
        assert found.ram_bytes == cuda_memory.OTHER_HOST_BYTES

    def test_offload_moves_weights_of_a_decoder_and_nothing_of_an_encoder(self) -> None:
        for model, kept in ((qwen3(), True), (checkpoint(), False)):
            flags: dict[str, FlagValue] = {"cpu-offload-gb": 1, "max-total-tokens": 8192}
            found = predict(
                model,
                knobs(flags, model),
                device="cuda",
                dtype="bfloat16",
                method="spawn",
                kv_pool_bytes=0,
            )
            moved = terms(found).get("offloaded weights", 0)
            # Qwen3's layers are 881 MB in 16 bits, and its table of embeddings is not offloaded.
            layers = (model.parameters - model.vocab_size * model.hidden_size) * 2
            assert moved == (min(GIB, layers) if kept else 0)
            assert terms(found)["weights"] + moved == model.parameters * 2

    @pytest.mark.parametrize(
        ("encoder", "flags", "gpu_bytes", "ram_bytes"),
        [
            # gpu-minilm on cuda13, and on cuda13-portable
            (True, MINILM_ON_A_CARD, 1_098_907_648, 3_445_920_768),
            (True, {**MINILM_ON_A_CARD, **PORTABLE}, 1_109_393_408, 3_394_828_288),
            # Qwen3-0.6B's shape by the flags of h100-bf16, on both, and by those of gpu-offload
            (False, H100, 18_196_987_904, 3_459_363_840),
            (False, {**H100, **PORTABLE}, 17_393_778_688, 3_505_009_664),
            (False, OFFLOAD, 1_772_093_440, 4_297_463_808),
        ],
    )
    def test_what_an_h100_measured_was_predicted_and_not_by_much_more(
        self, encoder: bool, flags: dict[str, FlagValue], gpu_bytes: int, ram_bytes: int
    ) -> None:
        """Peaks until verified, by process (NVML) and as PSS: records of 26 November 2026."""
        model = checkpoint() if encoder else qwen3()
        found = predict(
            model,
            knobs(flags, model),
            device="cuda",
            dtype="bfloat16",
            method="spawn",
            kv_pool_bytes=0,
            overhead=cuda_memory.overhead("0.5.23", [(9, 0)], encoder=encoder),
        )
        assert found.gpu_bytes is not None
        assert 1.0 <= found.gpu_bytes / gpu_bytes < 1.1
        assert found.ram_bytes is not None
        assert 1.0 <= found.ram_bytes / ram_bytes < 1.15

    def test_a_cuda_build_on_a_cpu_takes_more(self) -> None:
        """PyPI's PyTorch for x86-64: MiniLM took 813 MB where 661 were predicted."""
        peaks = [
            predict(
                checkpoint(),
                knobs({**MINILM, "max-total-tokens": 0}, checkpoint(), no_kv="whole texts"),
                device="cpu",
                dtype="bfloat16",
                method="fork",
                kv_pool_bytes=0,
                base=memory.cpu_base(checkpoint(), "fork", cuda_build=build),
            ).ram_bytes
            for build in (False, True)
        ]
        assert peaks[1] == (peaks[0] or 0) + memory.CUDA_BUILD_BYTES

    def test_a_card_and_a_release_that_were_not_measured_are_estimated(self) -> None:
        for version, card in (("0.5.23", (7, 5)), ("0.5.10.post1", (9, 0))):
            assumed = cuda_memory.overhead(version, [card], encoder=True)
            assert assumed.gpu_source is None
            assert assumed.gpu_bytes > 600 * MIB
        # RAM does not depend on the card.
        assert cuda_memory.overhead("0.5.23", [(7, 5)], encoder=True).ram_source

    def test_no_graph_is_counted_where_none_is_captured(self) -> None:
        sizes = [
            knobs(flags, qwen3()).graph_tokens
            for flags in (
                H100, {**H100, **PORTABLE}, OFFLOAD, {**H100, "chunked-prefill-size": 2048},
                {**H100, "disable-cuda-graph": True},
            )
        ]  # fmt: skip
        assert sizes == [8192, 0, 0, 2048, 0]

    def test_fp8_online_halves_the_layers_but_not_the_embedding_table(self) -> None:
        model = qwen3()
        flags: dict[str, FlagValue] = {"quantization": "fp8", "prefill-only-disable-kv-cache": True}
        found = predict(
            model,
            knobs(flags, model),
            device="cuda",
            dtype="bfloat16",
            method="spawn",
            kv_pool_bytes=7,
        )
        assert terms(found)["weights"] == model.parameters + model.vocab_size * model.hidden_size
        assert terms(found)["KV cache"] == 0

    def test_every_term_says_how_it_is_known(self) -> None:
        for device in ("cpu", "cuda"):
            found = predict(
                qwen3(),
                knobs({}, qwen3()),
                device=device,
                dtype="bfloat16",
                method="spawn",
                kv_pool_bytes=1,
            )
            assert all(term.source and term.bytes >= 0 for term in found.terms)
            measured = [term for term in found.terms if term.basis == "measured"]
            assert all("not on this host" in term.source for term in measured)

    @settings(deadline=None)  # other work on the machine is no fault of the plan's
    @given(
        tokens=st.integers(1, 1 << 22),
        more=st.integers(1, 1 << 20),
        requests=st.integers(1, 4096),
        dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    )
    def test_more_tokens_never_take_less(
        self, tokens: int, more: int, requests: int, dtype: str
    ) -> None:
        def ram(count: int) -> int:
            flags = {"max-total-tokens": count, "max-running-requests": requests}
            found = predict(
                checkpoint(),
                knobs(flags, checkpoint()),
                device="cpu",
                dtype=dtype,
                method="fork",
                kv_pool_bytes=0,
            )
            assert found.ram_bytes is not None
            return found.ram_bytes

        width = DTYPE_BYTES[dtype]
        assert ram(tokens + more) - ram(tokens) >= more * kv_bytes_per_token(checkpoint(), width)


class TestKnobs:
    def test_the_engines_defaults_where_nothing_is_given(self) -> None:
        assert knobs({}, qwen3()) == Knobs(
            kv_tokens=None,
            running_requests=2048,
            context=32768,
            prefill_tokens=16384,
            graph_tokens=8192,
        )

    def test_one_pass_is_bound_by_the_smallest_of_its_limits(self) -> None:
        model = qwen3()
        assert knobs({"chunked-prefill-size": 2048}, model).prefill_tokens == 2048
        assert knobs({"chunked-prefill-size": -1}, model).prefill_tokens == 32768  # one text
        short = {"chunked-prefill-size": -1, "context-length": 8192}
        assert knobs(short, model).prefill_tokens == 16384
        assert knobs({"max-total-tokens": 1000}, model).prefill_tokens == 1000
        assert knobs({"max-prefill-tokens": 500}, model).prefill_tokens == 500

    def test_switches_and_words_are_no_sizes(self) -> None:
        found = knobs({"max-total-tokens": True, "context-length": "8k"}, qwen3())
        assert found.kv_tokens is None
        assert found.context == 32768


class TestFit:
    def fits(self, available: int, tokens: int = 65536) -> Misfit | None:
        model = qwen3()
        sizes = knobs({"max-total-tokens": tokens, "max-running-requests": 8}, model)
        predicted = predict(
            model, sizes, device="cpu", dtype="bfloat16", method="fork", kv_pool_bytes=0
        )
        hardware = machine(available=available)
        return why_not_memory(predicted, hardware, model, sizes, "bfloat16")

    def test_room_enough(self) -> None:
        assert self.fits(64 * GIB) is None

    def test_a_refusal_names_both_figures_and_a_knob_that_helps(self) -> None:
        lacking = self.fits(6 * GIB)
        assert lacking is not None
        assert "GB of RAM, and 6.44 GB are free" in lacking.reason
        assert lacking.remedy is not None
        assert lacking.remedy.startswith("--max-total-tokens ")
        tokens = int(lacking.remedy.split()[1])
        assert tokens % 1024 == 0
        assert self.fits(6 * GIB, tokens) is None

    def test_no_knob_where_none_would_help(self) -> None:
        lacking = self.fits(1 * GIB)
        assert lacking is not None
        assert lacking.remedy is None

    def test_a_little_is_left_beside_the_prediction(self) -> None:
        predicted = MemoryPrediction(ram_bytes=1000 * MIB, gpu_bytes=None)
        sizes = knobs({"max-total-tokens": 1024}, qwen3())
        for available, fits in ((1049 * MIB, False), (1051 * MIB, True)):
            hardware = machine(available=available)
            found = why_not_memory(predicted, hardware, qwen3(), sizes, "bfloat16")
            assert (found is None) is fits

    def test_a_gpu_is_judged_by_what_is_free_on_it(self) -> None:
        predicted = MemoryPrediction(ram_bytes=1, gpu_bytes=4 * GIB)
        sizes = knobs({"max-total-tokens": 1024}, qwen3())
        for free, fits in ((3 * GIB, False), (5 * GIB, True)):
            hardware = machine(gpus=(gpu(total=16 * GIB, free=free),))
            found = why_not_memory(predicted, hardware, qwen3(), sizes, "float16")
            assert (found is None) is fits
            if found:
                assert "of GPU memory" in found.reason


class TestHardware:
    def test_the_architecture_is_looked_at_first(self) -> None:
        need = HardwareNeed(device="cpu", min_ram="64GiB")
        reason = why_not_on(need, releases.release("cpu-0.5.15"), machine(arch="aarch64"))
        assert reason is not None
        assert "no build for aarch64" in reason

    @pytest.mark.parametrize(("limit", "runs"), [(None, True), (3 * GIB, True), (1 * GIB, False)])
    def test_ram_is_the_cgroups_where_there_is_one(self, limit: int | None, runs: bool) -> None:
        need = HardwareNeed(device="cpu", min_ram="2GiB")
        reason = why_not_on(need, releases.release("cpu"), machine(limit=limit))
        assert (reason is None) is runs

    @pytest.mark.parametrize(
        ("capability", "total", "says"),
        [
            ((7, 0), 16 * GIB, "it needs 7.5 or newer"),
            ((8, 0), 16 * GIB, "it runs up to 7.5"),
            ((7, 5), 2 * GIB, "it needs 4.29 GB"),
            ((7, 5), int(3.9 * GIB), None),
        ],
    )
    def test_a_card_has_limits_both_ways(
        self, capability: tuple[int, int], total: int, says: str | None
    ) -> None:
        need = HardwareNeed(
            device="cuda",
            min_compute_capability="7.5",
            max_compute_capability="7.5",
            min_gpu_memory="4GiB",
        )
        hardware = machine(gpus=(gpu(capability=capability, total=total),))
        reason = why_not_on(need, releases.release("turing"), hardware)
        assert (reason is None) is (says is None)
        assert says is None or says in (reason or "")

    def test_the_releases_own_limits_count_too(self) -> None:
        need = HardwareNeed(device="cuda")
        hardware = machine(gpus=(gpu(capability=(7, 5)),))
        reason = why_not_on(need, releases.release("cuda13"), hardware)
        assert reason is not None
        assert "it needs 8.0 or newer" in reason

    def test_one_card_that_suits_is_enough(self) -> None:
        need = HardwareNeed(device="cuda", min_compute_capability="8.0")
        hardware = machine(gpus=(gpu(capability=(7, 5)), gpu("NVIDIA A10G", (8, 6), 24 * GIB)))
        assert why_not_on(need, releases.release("cuda13"), hardware) is None

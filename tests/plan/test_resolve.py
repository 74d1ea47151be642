from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from launcher.argv import FlagValue
from launcher.documents.plan import Plan
from launcher.errors import ExitCode, QlaunchError
from launcher.network.listening import is_loopback
from launcher.plan.draft import ENCODER_FLAGS
from launcher.plan.request_checks import OWNED, check_request
from launcher.plan.resolve import make_plan
from tests.plan.inputs import checkpoint, inputs, qwen3, settings
from tests.samples import GIB, gpu, machine

SMALL = {"max-total-tokens": 16384, "max-running-requests": 64}


def value(argv: Sequence[str], option: str) -> str:
    assert argv.count(option) == 1, argv
    return argv[argv.index(option) + 1]


class TestDtype:
    def test_a_cpu_that_computes_bfloat16_serves_it(self) -> None:
        plan = make_plan(inputs())
        assert value(plan.engine.argv, "--dtype") == "bfloat16"
        assert plan.expectation.dtype == "bfloat16"
        assert plan.expectation.parity_min == 0.999

    def test_another_cpu_serves_float32(self) -> None:
        plan = make_plan(inputs(hardware=machine(bf16=False)))
        assert value(plan.engine.argv, "--dtype") == "float32"
        assert plan.expectation.parity_min == 0.9999
        assert any(reason.startswith("dtype float32: this CPU") for reason in plan.reasons)

    def test_what_is_asked_for_is_taken(self) -> None:
        plan = make_plan(inputs(dtype="float32", sources={"dtype": "command line"}))
        assert value(plan.engine.argv, "--dtype") == "float32"
        assert "dtype float32: command line" in plan.reasons

    def test_float32_that_nobody_asked_for_keeps_weights_in_16_bits(self) -> None:
        without: dict[str, Any] = {"hardware": machine(bf16=False)}
        plan = make_plan(inputs(**without))
        assert plan.engine.env["QLAUNCH_WEIGHTS"] == "float16"
        assert any("weights in 16 bits" in reason for reason in plan.reasons)
        others: tuple[dict[str, Any], ...] = (
            {},
            {**without, "dtype": "float32"},
            {**without, "dtype": "int8"},
            {**without, "plugin": False},
            {**without, "flags": {"chunked-prefill-size": 512}},
        )
        for other in others:
            assert "QLAUNCH_WEIGHTS" not in make_plan(inputs(**other)).engine.env, other

    @pytest.mark.parametrize(
        ("capability", "dtype", "word"),
        [((7, 5), "float16", "half"), ((8, 6), "bfloat16", "bfloat16")],
    )
    def test_a_gpu_decides_by_its_age(
        self, capability: tuple[int, int], dtype: str, word: str
    ) -> None:
        hardware = machine(gpus=(gpu(capability=capability),))
        plan = make_plan(
            inputs(hardware=hardware, model=qwen3(), release="cuda13", flags=dict(SMALL))
        )
        assert plan.expectation.dtype == dtype
        assert value(plan.engine.argv, "--dtype") == word


class TestInt8:
    """Linear layers in 8-bit integers: the engine hears of the rest, the plugin of them."""

    @pytest.mark.parametrize(("bf16", "rest"), [(True, "bfloat16"), (False, "float32")])
    def test_it_is_the_plugins_and_the_rest_is_what_the_cpu_computes(
        self, bf16: bool, rest: str
    ) -> None:
        plan = make_plan(inputs(hardware=machine(bf16=bf16, int8=True), dtype="int8"))
        assert value(plan.engine.argv, "--dtype") == rest
        assert plan.engine.env["QLAUNCH_DTYPE"] == "int8"
        assert plan.expectation.dtype == "int8"
        assert plan.expectation.parity_min == 0.99
        same = make_plan(inputs(hardware=machine(bf16=bf16, int8=True), dtype=rest))
        assert "QLAUNCH_DTYPE" not in same.engine.env
        # While it loads, the weights are there in the other format.
        assert plan.predicted.ram_bytes == same.predicted.ram_bytes

    def test_a_decoder_is_quantised_layer_by_layer_and_planned_as_what_is_left(self) -> None:
        given: dict[str, Any] = {"hardware": machine(bf16=True, int8=True), "model": qwen3()}
        plan, same = make_plan(inputs(dtype="int8", **given)), make_plan(inputs(**given))
        assert plan.engine.env["QLAUNCH_DTYPE"] == "int8"
        assert plan.expectation.parity_min == 0.99
        sizes = {term.name: term.bytes for term in plan.predicted.terms}
        whole = {term.name: term.bytes for term in same.predicted.terms}
        # A byte an element, and at most 5 % of scales; the sums between layers are in float32.
        assert qwen3().parameters < sizes["weights"] < 1.05 * qwen3().parameters
        assert whole["weights"] == 2 * qwen3().parameters
        assert sizes["largest batch"] > whole["largest batch"]

    def test_without_vnni_weights_have_7_bits_and_the_plan_says_so(self) -> None:
        asked: dict[str, Any] = {"dtype": "int8", "sources": {"dtype": "command line"}}
        reasons = make_plan(inputs(hardware=machine(int8=False), **asked)).reasons
        why = "weights in 7 bits, for this CPU has neither VNNI nor AMX"
        assert f"dtype int8: command line; {why}" in reasons
        assert (
            "dtype int8: command line"
            in make_plan(inputs(hardware=machine(int8=True), **asked)).reasons
        )

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"hardware": machine(vectors=False)}, "this CPU has no AVX2"),
            (
                {"model": qwen3(), "flags": {"disable-radix-cache": False}},
                "every text is whole in its batch",
            ),
            ({"plugin": False}, "--no-plugin leaves the plugin out"),
            ({"model": checkpoint(quantization="gptq")}, "quantised already (gptq)"),
            (
                {"hardware": machine(int8=True, gpus=(gpu(),)), "release": "turing"},
                "it is for CPUs",
            ),
        ],
    )
    def test_where_it_cannot_be_had_it_is_refused(self, changes: Any, why: str) -> None:
        given = {"hardware": machine(int8=True), **changes}
        with pytest.raises(QlaunchError) as caught:
            make_plan(inputs(dtype="int8", **given))
        assert (caught.value.code, caught.value.exit_code) == ("does_not_fit", 4)
        assert why in caught.value.message


class TestEncoders:
    def test_the_flags_that_keep_them_right_are_always_passed(self) -> None:
        argv = make_plan(inputs()).engine.argv
        assert "--disable-radix-cache" in argv
        assert value(argv, "--chunked-prefill-size") == "-1"
        assert value(argv, "--mem-fraction-static") == "0.95"

    def test_a_decoder_that_may_be_cut_is_left_alone(self) -> None:
        flags: dict[str, FlagValue] = {**SMALL, "chunked-prefill-size": 2048}
        argv = make_plan(inputs(model=qwen3(), flags=flags)).engine.argv
        assert value(argv, "--chunked-prefill-size") == "2048"
        others = {f"--{name}" for name in ENCODER_FLAGS} - {"--chunked-prefill-size"}
        assert not others & set(argv)

    def test_a_profile_that_sets_one_itself_is_followed(self) -> None:
        argv = make_plan(inputs(flags={"mem-fraction-static": 0.7})).engine.argv
        assert value(argv, "--mem-fraction-static") == "0.7"
        assert "--disable-radix-cache" in argv

    @pytest.mark.parametrize("encoder", [True, False])
    def test_the_plan_says_what_right_vectors_are(self, encoder: bool) -> None:
        model = checkpoint() if encoder else qwen3()
        expected = make_plan(inputs(model=model, flags=dict(SMALL))).expectation
        assert expected.encoder is encoder
        assert (expected.pooling, expected.normalize) == (model.pooling, True)
        assert expected.dimensions == model.dimensions
        assert expected.max_running_requests == 64


class TestOptionsOfTheUser:
    def test_they_replace_the_plans_own(self) -> None:
        plan = make_plan(
            inputs(flags=dict(SMALL), extra=("--max-total-tokens", "1024", "--log-level=debug"))
        )
        assert value(plan.engine.argv, "--max-total-tokens") == "1024"
        assert plan.engine.argv[-3:] == ("--max-total-tokens", "1024", "--log-level=debug")

    def test_the_prediction_knows_them(self) -> None:
        usual = make_plan(inputs(flags=dict(SMALL)))
        for extra in (("--max-total-tokens", "1024"), ("--max-total-tokens=1024",)):
            smaller = make_plan(inputs(flags=dict(SMALL), extra=extra))
            assert term(usual, "KV cache") == 16 * term(smaller, "KV cache")

    @pytest.mark.parametrize("word", OWNED)
    def test_what_qlaunch_sets_itself_is_refused(self, word: str) -> None:
        for extra in ((word, "x"), (f"{word}=x",)):
            with pytest.raises(QlaunchError, match="is set by qlaunch itself") as caught:
                check_request(settings(), extra)
            assert caught.value.exit_code == ExitCode.USAGE
            assert caught.value.fix

    def test_what_the_engine_does_not_know_is_refused(self) -> None:
        with pytest.raises(QlaunchError, match="--no-such is not an option of SGLang") as caught:
            make_plan(inputs(extra=("--no-such",)))
        assert caught.value.exit_code == ExitCode.ENGINE

    def test_a_profile_flag_of_another_release_is_refused_with_its_successor(self) -> None:
        with pytest.raises(QlaunchError) as caught:
            make_plan(inputs(flags={"cuda-graph-max-bs": 8}))
        assert caught.value.exit_code == ExitCode.ENGINE
        assert "--cuda-graph-max-bs-prefill" in str(caught.value.fix)


class TestAddress:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
    def test_this_machine_needs_no_key(self, host: str) -> None:
        assert is_loopback(host)
        check_request(settings(host=host), ())

    @pytest.mark.parametrize(
        "host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "", "127.0.0.1.x"]
    )
    def test_any_other_does(self, host: str) -> None:
        assert not is_loopback(host)
        with pytest.raises(QlaunchError) as caught:
            check_request(settings(host=host), ())
        assert caught.value.code == "unauthenticated_bind"
        assert caught.value.exit_code == ExitCode.USAGE
        check_request(settings(host=host, allow_unauthenticated=True), ())
        check_request(settings(host=host, api_key_file="/key"), ())

    def test_the_key_is_in_a_file_and_never_in_the_command(self) -> None:
        plan = make_plan(inputs(host="0.0.0.0", api_key_file="/secret/key"))
        assert value(plan.engine.argv, "--config") == "{secrets_config}"
        assert "--api-key" not in plan.engine.argv
        assert "/secret/key" not in plan.engine.argv
        assert plan.api_key_file == "/secret/key"

    def test_port_0_is_filled_in_at_the_start(self) -> None:
        plan = make_plan(inputs(port=0))
        assert plan.port == 0
        assert value(plan.engine.argv, "--port") == "{port}"


class TestEnvironment:
    def test_threads_come_from_the_cgroup_quota(self) -> None:
        plan = make_plan(inputs(hardware=machine(threads=3)))
        assert plan.engine.env["OMP_NUM_THREADS"] == "3"
        assert "3 threads: cgroup quota" in plan.reasons

    def test_threads_that_are_asked_for_are_taken(self) -> None:
        source = {"threads": "environment QLAUNCH_THREADS"}
        plan = make_plan(inputs(threads=7, sources=source, hardware=machine(threads=8)))
        assert plan.engine.env["OMP_NUM_THREADS"] == "7"
        assert "7 threads: environment QLAUNCH_THREADS" in plan.reasons
        plan = make_plan(inputs(threads=7, sources=source, hardware=machine(threads=2)))
        slower = "; more than the 2 that can be used here: slower"
        assert f"7 threads: environment QLAUNCH_THREADS{slower}" in plan.reasons

    def test_threads_of_which_a_machine_has_no_use_are_refused(self) -> None:
        """10000 on two processors were passed on, with the word "slower"."""
        source = {"threads": "profile /p.yaml:3", "env.OMP_NUM_THREADS": "profile /p.yaml:4"}
        for line, wanted in (
            (3, inputs(threads=10_000, sources=source)),
            (4, inputs(env={"OMP_NUM_THREADS": "10000"}, sources=source)),
        ):
            with pytest.raises(QlaunchError, match="256 are the most here") as caught:
                make_plan(wanted)
            assert caught.value.message.startswith(f"profile /p.yaml:{line}: `")
            assert (caught.value.code, int(caught.value.exit_code)) == ("setting_invalid", 2)
        make_plan(inputs(threads=256))

    def test_without_the_plugin_nothing_of_it_is_there(self) -> None:
        plan = make_plan(inputs(plugin=False))
        env = plan.engine.env
        assert plan.engine.plugin is False
        assert not [name for name in env if name.startswith("QLAUNCH_")]
        assert "SGLANG_EXTERNAL_MODEL_PACKAGE" not in env
        assert "sglang_plugin" not in env["PYTHONPATH"]
        assert "standins" in env["PYTHONPATH"]

    def test_the_plugin_changes_the_predicted_memory(self) -> None:
        forked = make_plan(inputs()).predicted.ram_bytes or 0
        for changes in ({"plugin": False}, {"start_method": "spawn"}):
            assert (make_plan(inputs(**changes)).predicted.ram_bytes or 0) > forked

    def test_a_profiles_own_variables_win(self) -> None:
        plan = make_plan(inputs(env={"OMP_NUM_THREADS": "1", "OWN": "x"}))
        assert plan.engine.env["OMP_NUM_THREADS"] == "1"
        assert plan.engine.env["OWN"] == "x"
        assert "1 thread: OMP_NUM_THREADS in the profile's env" in plan.reasons

    def test_a_profiles_own_pythonpath_comes_after_the_plugins(self) -> None:
        """It stood in their place: an engine without plugin and stand-ins, planned as with them."""
        plain = make_plan(inputs()).engine.env["PYTHONPATH"]
        assert "sglang_plugin" in plain
        own = make_plan(inputs(env={"PYTHONPATH": "/own"})).engine.env["PYTHONPATH"]
        assert own == f"{plain}:/own"
        assert make_plan(inputs(env={"PYTHONPATH": ""})).engine.env["PYTHONPATH"] == plain

    @pytest.mark.parametrize(
        ("architecture", "package"),
        [
            ("BertModel", "qlaunch_sglang.encoders"),
            ("Qwen3ForCausalLM", "qlaunch_sglang.decoders"),
            ("MixtralForCausalLM", None),
        ],
    )
    def test_our_model_package_by_architecture(
        self, architecture: str, package: str | None
    ) -> None:
        plan = make_plan(inputs(model=checkpoint(architectures=(architecture,))))
        assert plan.engine.env.get("SGLANG_EXTERNAL_MODEL_PACKAGE") == package

    def test_a_cuda_engine_keeps_its_gpu(self) -> None:
        hardware = machine(gpus=(gpu("NVIDIA A10G", (8, 6), 24 * GIB),))
        plan = make_plan(
            inputs(hardware=hardware, model=qwen3(), release="cuda13", flags=dict(SMALL))
        )
        assert plan.device == "cuda"
        assert not {"CUDA_VISIBLE_DEVICES", "SGLANG_USE_CPU_ENGINE", "OMP_NUM_THREADS"} & set(
            plan.engine.env
        )
        assert "--device" not in plan.engine.argv


@pytest.mark.parametrize("extra", [(), ("--max-total-tokens", "300"), ("--max-total-tokens=300",)])
def test_a_text_that_the_kv_cache_cannot_hold_is_refused_and_not_kept_waiting(
    extra: tuple[str, ...],
) -> None:
    """Left to itself the engine lets it wait for ever, and everything behind it too."""
    plan = make_plan(inputs(flags={"max-total-tokens": 4096 if extra else 300}, extra=extra))
    # Tried on the engine: of a cache of 300 tokens it runs 298, and 299 wait for ever.
    assert value(plan.engine.argv, "--context-length") == "299"
    assert plan.expectation.context_length == 299
    assert plan.guard is not None
    assert plan.guard.text_tokens == 298
    words = "context 299: the KV cache (--max-total-tokens 300) cannot hold a longer text"
    assert words in plan.reasons


@pytest.mark.parametrize(("page", "context"), [(1, 511), (16, 496), (64, 448)])
def test_a_kv_cache_of_just_the_context_does_not_hold_it(page: int, context: int) -> None:
    """A page more is needed for each text, and one token that is never used."""
    plan = make_plan(inputs(flags={"max-total-tokens": 512, "page-size": page}))
    assert plan.expectation.context_length == context


def test_a_context_that_the_user_insists_on_stays_with_a_warning() -> None:
    extra = ("--max-total-tokens", "300", "--context-length", "400")
    plan = make_plan(inputs(extra=extra))
    assert value(plan.engine.argv, "--context-length") == "400"
    words = "a text of 299 tokens or more would wait forever: --max-total-tokens 300"
    assert words in plan.reasons


@pytest.mark.parametrize("tokens", [514, 4096])
def test_a_kv_cache_for_the_whole_context_changes_nothing(tokens: int) -> None:
    plan = make_plan(inputs(flags={"max-total-tokens": tokens}))
    assert plan.expectation.context_length == 513
    assert not any("KV cache" in reason for reason in plan.reasons)


def test_a_context_longer_than_the_checkpoints_is_cut_with_a_reason() -> None:
    plan = make_plan(inputs(flags={"context-length": 8192}))
    assert value(plan.engine.argv, "--context-length") == "513"
    assert plan.expectation.context_length == 513
    assert any(reason.startswith("context 512:") for reason in plan.reasons)


def test_all_positions_of_an_encoder_are_used() -> None:
    """The engine refuses a text that fills its context: BERT's 512 positions need one of 513."""
    plan = make_plan(inputs())
    assert value(plan.engine.argv, "--context-length") == "513"
    assert plan.engine.env["SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"] == "1"
    assert plan.guard is not None
    assert plan.guard.text_tokens == 512
    shorter = make_plan(inputs(flags={"context-length": 300}))
    assert "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN" not in shorter.engine.env
    assert shorter.guard is not None
    assert shorter.guard.text_tokens == 299


def test_a_longer_context_of_the_users_own_is_refused_before_a_start() -> None:
    with pytest.raises(QlaunchError) as caught:
        make_plan(inputs(extra=("--context-length", "514")))
    assert (caught.value.code, caught.value.exit_code) == ("context_too_long", 2)


def test_a_colon_in_a_folders_name_does_not_become_an_adapter() -> None:
    model = msgspec.structs.replace(checkpoint(), path=checkpoint().path.with_name("a:b"))
    plan = make_plan(inputs(model=model))
    assert plan.model_name == "a-b"
    assert value(plan.engine.argv, "--served-model-name") == "a-b"


def test_a_plan_that_does_not_fit_says_so_first() -> None:
    flags: dict[str, FlagValue] = {"max-total-tokens": 65536, "disable-radix-cache": False}
    plan = make_plan(inputs(hardware=machine(available=int(1.3 * GIB)), flags=flags))
    assert plan.fits is False
    assert plan.misfit is not None
    assert plan.remedy is not None
    assert "predicted to take" in plan.misfit
    assert plan.remedy.startswith("--max-total-tokens ")
    assert plan.reasons[:2] == (plan.misfit, plan.remedy)


def test_without_a_cache_a_smaller_batch_is_what_helps() -> None:
    flags: dict[str, FlagValue] = {"max-total-tokens": 65536, "max-prefill-tokens": 65536}
    small = machine(available=int(1.3 * GIB))
    plan = make_plan(inputs(hardware=small, flags=flags))
    assert plan.fits is False
    tokens = re.match(r"--max-prefill-tokens (\d+) would fit", plan.reasons[1])
    assert tokens is not None
    flags["max-prefill-tokens"] = int(tokens[1])
    assert make_plan(inputs(hardware=small, flags=flags)).fits


def test_a_plan_survives_its_file() -> None:
    plan = make_plan(inputs(flags=dict(SMALL)))
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


@hypothesis_settings(deadline=None)  # other work on the machine is no fault of the plan's
@given(
    port=st.integers(0, 65535),
    threads=st.one_of(st.just("auto"), st.integers(1, 256)),
    plugin=st.booleans(),
    bf16=st.booleans(),
    encoder=st.booleans(),
    tokens=st.integers(1024, 1 << 20),
)
def test_planning_is_pure_and_repeatable(
    port: int, threads: Any, plugin: bool, bf16: bool, encoder: bool, tokens: int
) -> None:
    def once() -> Plan:
        return make_plan(
            inputs(
                port=port,
                threads=threads,
                plugin=plugin,
                hardware=machine(bf16=bf16),
                model=checkpoint() if encoder else qwen3(),
                flags={"max-total-tokens": tokens},
            )
        )

    plan = once()
    assert plan == once()
    assert plan.fits is (len([r for r in plan.reasons if "predicted to take" in r]) == 0)
    assert all(isinstance(word, str) for word in plan.engine.argv)


def term(plan: Plan, name: str) -> int:
    return next(found.bytes for found in plan.predicted.terms if found.name == name)

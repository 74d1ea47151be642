"""How an engine is started: argv and environment of each kind of release."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.engine import command
from tests.samples import engine

COMMON: dict[str, Any] = {
    "model_path": "/models/m",
    "served_name": "m",
    "host": "127.0.0.1",
    "port": "30000",
    "dtype": "bfloat16",
    "flags": {},
}


def environment(release: str, **changes: Any) -> dict[str, str]:
    values: dict[str, Any] = {
        "model_path": "/models/m",
        "architectures": ("BertModel",),
        "threads": 2,
        "plugin": True,
        "start_method": "auto",
    }
    return command.environment(engine(release), **{**values, **changes})


def test_the_cpu_release() -> None:
    assert command.argv(engine("cpu"), **COMMON) == (
        "/engines/cpu/bin/sglang",
        "serve",
        "--model-path",
        "/models/m",
        "--served-model-name",
        "m",
        "--host",
        "127.0.0.1",
        "--port",
        "30000",
        "--is-embedding",
        "--device",
        "cpu",
        "--dtype",
        "bfloat16",
    )


def test_a_cuda_release_chooses_its_device_itself() -> None:
    assert "--device" not in command.argv(engine("cuda13"), **COMMON)


def test_the_oldest_release_without_the_plugin_is_its_own_module() -> None:
    argv = command.argv(engine("turing"), **COMMON, plugin=False)
    assert argv[:3] == ("/engines/cpu/bin/python", "-m", "sglang.launch_server")


def test_the_key_is_named_by_a_file_and_the_users_options_come_last() -> None:
    argv = command.argv(engine(), **COMMON, has_key=True, extra=("--log-level", "debug"))
    assert argv[argv.index("--config") + 1] == "{secrets_config}"
    assert argv[-2:] == ("--log-level", "debug")


def test_flags_of_each_type() -> None:
    assert command.render(
        {
            "on": True,
            "off": False,
            "count": 3,
            "minus": -1,
            "share": 0.5,
            "word": "a b; c",
            "several": ["x", "y"],
            "none": [],
        }
    ) == [
        "--on",
        "--count",
        "3",
        "--minus",
        "-1",
        "--share",
        "0.5",
        "--word",
        "a b; c",
        "--several",
        "x",
        "y",
        "--none",
    ]


@settings(deadline=None)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True),
        st.one_of(st.booleans(), st.integers(), st.text(), st.lists(st.text(), max_size=3)),
        max_size=8,
    )
)
def test_every_flag_but_a_false_one_is_passed_once(flags: dict[str, Any]) -> None:
    words = command.render(flags)
    passed = [name for name, value in flags.items() if value is not False]
    count = sum(
        1 if value is True else 1 + (len(value) if isinstance(value, list) else 1)
        for value in flags.values()
        if value is not False
    )
    assert len(words) == count
    assert all(isinstance(word, str) for word in words)
    assert all(f"--{name}" in words for name in passed)


class TestEnvironment:
    def test_the_cpu_release(self) -> None:
        found = environment("cpu")
        assert found == {
            "CUDA_VISIBLE_DEVICES": "",
            "GOMP_SPINCOUNT": "10000",
            "HF_HUB_OFFLINE": "1",
            "LRU_CACHE_CAPACITY": "16",
            "MALLOC_ARENA_MAX": "1",
            "OMP_NUM_THREADS": "2",
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": f"{command.STANDINS}:{command.PLUGIN}",
            "QLAUNCH_MODEL_PATH": "/models/m",
            "QLAUNCH_START_METHOD": "auto",
            "SGLANG_CUDA_COREDUMP_BEFORE_CRASH": "0",
            "SGLANG_EXTERNAL_MODEL_PACKAGE": "qlaunch_sglang.encoders",
            "SGLANG_PYSPY_DUMP_BEFORE_CRASH": "0",
            "SGLANG_USE_CPU_ENGINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
        }

    @pytest.mark.parametrize(("threads", "arenas"), [(1, "1"), (3, "1"), (64, "32"), (None, None)])
    def test_some_threads_share_an_arena(self, threads: int | None, arenas: str | None) -> None:
        assert environment("cpu", threads=threads).get("MALLOC_ARENA_MAX") == arenas

    def test_no_plugin_leaves_only_what_the_engine_needs_to_start(self) -> None:
        found = environment("cpu", plugin=False)
        assert found["PYTHONPATH"] == str(command.STANDINS)
        assert not [name for name in found if name.startswith("QLAUNCH_")]

    def test_a_cuda_release_gets_no_stand_ins_and_keeps_its_gpus(self) -> None:
        found = environment("cuda13", threads=None)
        assert found["PYTHONPATH"] == str(command.PLUGIN)
        assert not {"SGLANG_USE_CPU_ENGINE", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"} & set(found)

    @pytest.mark.parametrize("release", ["cpu", "cuda13"])
    def test_nothing_is_fetched_behind_the_users_back(self, release: str) -> None:
        found = environment(release, plugin=False)
        assert (found["HF_HUB_OFFLINE"], found["TRANSFORMERS_OFFLINE"]) == ("1", "1")

    def test_architectures_of_both_kinds_get_no_package(self) -> None:
        found = environment("cpu", architectures=("BertModel", "Qwen3ForCausalLM"))
        assert "SGLANG_EXTERNAL_MODEL_PACKAGE" not in found

    def test_what_the_plugin_is_made_of_is_there(self) -> None:
        assert (command.STANDINS / "sgl_kernel.py").is_file()
        assert (command.PLUGIN / "qlaunch_sglang" / "__init__.py").is_file()
        for package in set(command.EXTERNAL_PACKAGES.values()):
            assert (command.PLUGIN / package.replace(".", "/") / "__init__.py").is_file()

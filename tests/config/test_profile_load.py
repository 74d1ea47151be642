"""Finding profiles by name and by path, and what a profile must keep to."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.config import loading
from launcher.config.checks import QUANT_METHODS
from launcher.config.loading import find_profile, list_profiles, load_profile, shipped_dir
from launcher.config.size import parse_size
from launcher.engine.options import flags
from launcher.errors import ExitCode, QlaunchError

MINIMAL = """title: Mine
hardware:
  device: cpu
engine: cpu
model: all-minilm-l6-v2
"""


@pytest.fixture
def user_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "config" / "profiles"
    folder.mkdir(parents=True)
    return folder


def refusal(user_dir: Path, extra: str, text: str = MINIMAL) -> QlaunchError:
    (user_dir / "mine.yaml").write_text(text + extra)
    with pytest.raises(QlaunchError) as caught:
        load_profile("mine", user_dir)
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.code == "profile_invalid"
    return caught.value


def test_a_shipped_profile_by_name(user_dir: Path) -> None:
    loaded = load_profile("cpu-minilm", user_dir)
    assert (loaded.name, loaded.shipped) == ("cpu-minilm", True)
    assert loaded.path == shipped_dir() / "cpu-minilm.yaml"
    assert loaded.profile.engine == "cpu"
    assert loaded.lines[("title",)] == 2


def test_a_users_profile_stands_in_front_of_the_shipped_one(user_dir: Path) -> None:
    (user_dir / "cpu-minilm.yaml").write_text(MINIMAL)
    loaded = load_profile("cpu-minilm", user_dir)
    assert (loaded.shipped, loaded.profile.title) == (False, "Mine")
    ref = {ref.name: ref for ref in list_profiles(user_dir)}["cpu-minilm"]
    assert (ref.shipped, ref.shadows) == (False, True)
    assert find_profile("cpu-minilm", user_dir).shadows


def test_a_profile_by_path(user_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (user_dir / "mine.yml").write_text(MINIMAL)
    by_path = load_profile(str(user_dir / "mine.yml"), Path("/nonexistent"))
    assert (by_path.name, by_path.shipped) == ("mine", False)
    monkeypatch.chdir(user_dir)
    assert load_profile("mine.yml", Path("/nonexistent")).path == user_dir / "mine.yml"
    assert load_profile("../profiles/mine.yml", Path("/nonexistent")).name == "mine"


def test_missing_user_folder_leaves_the_shipped_profiles(tmp_path: Path) -> None:
    names = [ref.name for ref in list_profiles(tmp_path / "nowhere")]
    assert {"cpu-minilm", "cpu-qwen3-0.6b", "t4-fp16"} <= set(names)
    assert names == sorted(names)
    assert "models" not in names
    assert "schema" not in names


def test_a_broken_file_is_listed_with_its_error(user_dir: Path) -> None:
    (user_dir / "broken.yaml").write_text("title: [\n")
    (user_dir / "wrong.yaml").write_text(MINIMAL + "flags:\n  --port: 1\n")
    (user_dir / "folder.yaml").mkdir()
    (user_dir / "Bad Name.yaml").write_text(MINIMAL)
    (user_dir / ".hidden.yaml").write_text("x")
    (user_dir / "notes.txt").write_text("x")
    (user_dir / "good.yaml").write_text(MINIMAL)
    (user_dir / "good.yml").write_text("broken")
    refs = {ref.name: ref for ref in list_profiles(user_dir) if not ref.shipped}
    assert sorted(refs) == ["Bad Name", "broken", "folder", "good", "wrong"]
    for name in ("Bad Name", "broken", "folder", "wrong"):
        assert refs[name].error is not None
        assert refs[name].profile is None
    assert refs["good"].error is None
    assert refs["good"].profile is not None
    assert refs["good"].profile.title == "Mine"


def test_a_file_where_the_profile_folder_belongs(tmp_path: Path) -> None:
    (tmp_path / "profiles").write_text("")
    with pytest.raises(QlaunchError, match="cannot read the profile folder"):
        list_profiles(tmp_path / "profiles")
    with pytest.raises(QlaunchError, match="cannot read the profile folder"):
        find_profile("cpu-minilm", tmp_path / "profiles")


def test_an_unknown_name_gives_the_nearest_and_how_to_list(user_dir: Path) -> None:
    with pytest.raises(QlaunchError, match="did you mean `cpu-minilm`") as caught:
        load_profile("cpu-minlm", user_dir)
    assert caught.value.code == "profile_unknown"
    assert caught.value.exit_code is ExitCode.USAGE
    assert "qlaunch profiles list" in (caught.value.fix or "")


@pytest.mark.parametrize(
    "name",
    [
        *["", ".", "..", "../x", "../cpu-minilm", "/etc/passwd", "a\0b", "a\0.yaml", "x" * 300],
        *["x" * 300 + ".yaml", "/nowhere/x.yaml", "~root", "cpu-minilm\n", "CPU-MINILM", "-h"],
        *["models/bge-micro-v2", "\x1b[2J", "\udcff.yaml", " cpu-minilm", "./cpu-minilm"],
    ],
)
def test_names_that_are_no_profiles_are_refused(user_dir: Path, name: str) -> None:
    (user_dir.parent / "x").write_text(MINIMAL)
    with pytest.raises(QlaunchError) as caught:
        load_profile(name, user_dir)
    assert caught.value.code == "profile_unknown"
    assert caught.value.exit_code is ExitCode.USAGE
    assert len(caught.value.message) < 400
    assert caught.value.message.isprintable()


def test_a_file_name_that_cannot_name_a_profile(user_dir: Path) -> None:
    (user_dir / "My Profile.yaml").write_text(MINIMAL)
    with pytest.raises(QlaunchError, match="cannot name a profile"):
        load_profile(str(user_dir / "My Profile.yaml"), user_dir)


def test_profiles_of_a_wheel_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "launcher" / "_profiles"
    inside.mkdir(parents=True)
    monkeypatch.setattr(loading, "__file__", str(tmp_path / "launcher" / "profile" / "load.py"))
    assert shipped_dir() == inside


@pytest.mark.parametrize(
    ("extra", "line", "says", "fix"),
    [
        ("flags:\n  --tp: 1\n", 7, "`flags.--tp`", "write `tp`"),
        ("flags:\n  a: 1\n  max_total_tokens: 1\n", 8, "max_total", "write `max-total-tokens`"),
        ("flags:\n  model-path: x\n", 7, "set by qlaunch itself", "`model`"),
        ("flags:\n  host: x\n", 7, "set by qlaunch itself", "`host`"),
        ("flags:\n  port: 1\n", 7, "set by qlaunch itself", "`port`"),
        ("flags:\n  is-embedding: true\n", 7, "set by qlaunch itself", "always passes"),
        ("flags:\n  api-key: x\n", 7, "set by qlaunch itself", "--api-key-file"),
        ("flags:\n  device: cpu\n", 7, "set by qlaunch itself", "`hardware.device`"),
        ("flags:\n  dtype: half\n", 7, "set by qlaunch itself", "`dtype`"),
        ("flags:\n  config: x\n", 7, "set by qlaunch itself", "`flags`"),
        ("flags:\n  served-model-name: x\n", 7, "set by qlaunch itself", "model card"),
        ("flags:\n  offload-group-size: 2\n", 7, "crashes the engine", "cpu-offload-gb"),
        ("flags:\n  offload-num-in-group: 1\n", 7, "crashes the engine", "remove"),
        ("flags:\n  offload-prefetch-step: 1\n", 7, "crashes the engine", "remove"),
        ("flags:\n  offload-mode: cpu\n", 7, "crashes the engine", "remove"),
        ("flags:\n  cpu-offload-gb: 0.5\n", 7, "whole gibibytes", "whole number"),
        ("flags:\n  cpu-offload-gb: -1\n", 7, "whole gibibytes", "whole number"),
        ("flags:\n  cpu-offload-gb: true\n", 7, "whole gibibytes", "whole number"),
        ('flags:\n  cpu-offload-gb: "1"\n', 7, "whole gibibytes", "whole number"),
        ("flags:\n  a: []\n", 7, "empty list", "at least one"),
        ("flags:\n  a: [[1]]\n", 7, "`flags.a[0]` must be text", None),
        ("flags:\n  a: {b: 1}\n", 7, "`flags.a` must be", None),
        ("env:\n  OK: x\n  HF_TOKEN: x\n", 8, "looks like a secret", "--api-key-file"),
        ("env:\n  MY_API_KEY: x\n", 7, "looks like a secret", "--api-key-file"),
        ("env:\n  OMP_DYNAMIC: x\n", 7, "would be wrong", "`threads: N`"),
        ("env:\n  apikey: x\n", 7, "looks like a secret", "--api-key-file"),
        ("env:\n  AWS_SECRET_X: x\n", 7, "looks like a secret", "--api-key-file"),
        ("env:\n  DB_PASSWORD: x\n", 7, "looks like a secret", "--api-key-file"),
        ("env:\n  1A: x\n", 7, "is not a name", "letters"),
        ("env:\n  'A=B': x\n", 7, "is not a name", "letters"),
        ("env:\n  '': x\n", 7, "is not a name", "letters"),
        ("env:\n  É: x\n", 7, "is not a name", "letters"),
        ("host: 'a b'\n", 6, "neither an address nor a name", "IPv4"),
        ("host: ''\n", 6, "neither an address nor a name", "IPv4"),
        ("host: 999.1.1.1\n", 6, "neither an address nor a name", "IPv4"),
        ("host: 127.0.0\n", 6, "neither an address nor a name", "IPv4"),
        ("host: '[::1]'\n", 6, "neither an address nor a name", "without brackets"),
        ("host: http://x\n", 6, "neither an address nor a name", "IPv4"),
        ("host: -x\n", 6, "neither an address nor a name", "IPv4"),
        ("api_key_file: ''\n", 6, "path is empty", "leave it out"),
        ("restart:\n  backoff_initial_s: 90\n", 7, "longer than", None),
        (
            "port: 31000\nmetrics_port: 31000\n",
            7,
            "`metrics_port` is 31000, and so is `port`",
            "give one another number, or 0",
        ),
        ("port: 70000\n", 6, "at most 65535", None),
        ("fallback: [{}]\n", 6, "a mapping that is not empty, found an empty mapping", None),
        (
            "checkpoint: {quantization: [gptg]}\n",
            6,
            "no engine knows the format `gptg`; did you mean `gptq`",
            "quant_method",
        ),
        ("prot: 1\n", 6, "did you mean `port`?", "keys allowed here"),
        ("dtype: flaot16\n", 6, "did you mean `float16`", None),
        ("start_timeout_s: 0\n", 6, "above 0", None),
        ("measured: no\n", 6, "`measured` must be true or false", "true or false"),
    ],
)
def test_what_a_profile_must_keep_to(
    user_dir: Path, extra: str, line: int, says: str, fix: str | None
) -> None:
    error = refusal(user_dir, extra)
    assert error.message.startswith(f"profile {user_dir}/mine.yaml:{line}: ")
    assert says in error.message
    assert fix is None or fix in (error.fix or "")


@pytest.mark.parametrize(
    ("need", "line", "says"),
    [
        ("  device: cuda\n  min_gpu_memory: 4G\n", 4, "`4G` is not a size"),
        ("  device: cpu\n  min_ram: lots\n", 4, "`lots` is not a size"),
        ("  device: cpu\n  min_ram: 4e9\n", 4, "text such as 4GiB) or nothing, found the number"),
        ("  device: cuda\n  min_compute_capability: '75'\n", 4, "not a compute capability"),
        ("  device: cuda\n  min_compute_capability: 7.5\n", 4, "must be text"),
        (
            "  device: cuda\n  min_compute_capability: '8.0'\n  max_compute_capability: '7.5'\n",
            4,
            "is above",
        ),
        ("  device: cpu\n  min_gpu_memory: 4GiB\n", 4, "`hardware.device` is cpu"),
        ("  device: rocm\n", 3, "one of cpu, cuda"),
    ],
)
def test_what_hardware_must_keep_to(user_dir: Path, need: str, line: int, says: str) -> None:
    text = f"title: x\nhardware:\n{need}engine: cpu\nmodel: m\n"
    error = refusal(user_dir, "", text)
    assert f"mine.yaml:{line}: " in error.message
    assert says in error.message


@pytest.mark.parametrize("size", ["4000000000", "'4000000000'", "4GB"])
def test_memory_in_plain_bytes_is_taken(user_dir: Path, size: str) -> None:
    """A whole number was refused, and the same number in quotes taken."""
    (user_dir / "mine.yaml").write_text(MINIMAL.replace("cpu\n", f"cpu\n  min_ram: {size}\n", 1))
    need = load_profile("mine", user_dir).profile.hardware.min_ram
    assert need is not None
    assert parse_size(need) == 4_000_000_000


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("description: hf:", 'description: "hf:"'),
        ("description: a: b  # why", 'description: "a: b"'),
        ("  host: x", None),
    ],
)
def test_a_value_with_a_colon_is_to_be_quoted(user_dir: Path, line: str, fix: str | None) -> None:
    """The parser's words alone say nothing of quotes."""
    error = refusal(user_dir, f"{line}\n")
    assert "mapping values are not allowed" in error.message
    assert (fix in (error.fix or "")) if fix else error.fix is None


def test_the_formats_of_weights_are_those_of_the_engines(user_dir: Path) -> None:
    of_the_tables = {
        str(choice)
        for version in flags.versions()
        for choice in flags.table(version).index()["--quantization"].choices  # type: ignore[union-attr]
    }
    assert of_the_tables <= QUANT_METHODS


def test_an_empty_model_is_refused(user_dir: Path) -> None:
    error = refusal(user_dir, "", MINIMAL.replace("all-minilm-l6-v2", "' '"))
    assert "mine.yaml:5: `model` is empty" in error.message


def test_engine_names_cannot_traverse(user_dir: Path) -> None:
    for name in ("../x", "a/b", '"cpu\\n"', "x" * 65):
        error = refusal(user_dir, "", MINIMAL.replace("engine: cpu", f"engine: {name}"))
        assert "mine.yaml:4: `engine` must be a name" in error.message


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::", "::1", "localhost", "a-b.example."])
def test_hosts_that_are_fine(user_dir: Path, host: str) -> None:
    (user_dir / "mine.yaml").write_text(f"{MINIMAL}host: '{host}'\n")
    assert load_profile("mine", user_dir).profile.host == host


def test_variables_that_only_look_like_secrets_are_fine(user_dir: Path) -> None:
    names = ["TOKENIZERS_PARALLELISM", "MAX_TOKENS", "OMP_NUM_THREADS", "_X"]
    lines = "".join(f"  {name}: '2'\n" for name in names)
    (user_dir / "mine.yaml").write_text(f"{MINIMAL}env:\n{lines}")
    assert list(load_profile("mine", user_dir).profile.env) == names


@pytest.mark.parametrize("value", ["0", "-2", "4,2", "x", "", "\uff12", "1.5", "9" * 5000])
def test_what_is_not_one_number_of_threads_is_refused(user_dir: Path, value: str) -> None:
    """The plan named the machine's number; more digits than Python reads would be a traceback."""
    text = f"{MINIMAL}env:\n  OMP_NUM_THREADS: '{value}'\n"
    (user_dir / "mine.yaml").write_text(text, "utf-8")
    with pytest.raises(QlaunchError, match="not one number of threads") as caught:
        load_profile("mine", user_dir)
    assert f"mine.yaml:{text.count(chr(10))}: " in caught.value.message


@pytest.mark.parametrize("size", ["0GiB", "0", "0.0 MB"])
@pytest.mark.parametrize(("device", "key"), [("cpu", "min_ram"), ("cuda", "min_gpu_memory")])
def test_no_memory_at_all_is_no_need(user_dir: Path, device: str, key: str, size: str) -> None:
    """`0GiB` was taken, and 0 refused."""
    text = MINIMAL.replace("device: cpu", f"device: {device}\n  {key}: '{size}'")
    (user_dir / "mine.yaml").write_text(text)
    with pytest.raises(QlaunchError, match="is not memory that anything needs") as caught:
        load_profile("mine", user_dir)
    assert int(caught.value.exit_code) == 2


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("SGLANG_PLUGINS", "plugin: false"),
        ("PYTHONHOME", "a Python of its own"),
        ("SGLANG_USE_CPU_ENGINE", "hardware.device"),
        ("QLAUNCH_MODEL_PATH", "set `model`"),
    ],
)
def test_variables_that_take_the_plugin_or_the_python_away_are_refused(
    user_dir: Path, name: str, fix: str
) -> None:
    """SGLANG_PLUGINS left qlaunch's plugin out, with 1.38 GB of 0.59 predicted; PYTHONHOME ended a
    start with the advice to install the engine again."""
    error = refusal(user_dir, f"env:\n  A: b\n  {name}: x\n")
    assert f"mine.yaml:8: `env.{name}` is set by qlaunch itself" in error.message
    assert fix in (error.fix or "")


def test_a_variable_with_which_linux_starts_no_program_is_refused(user_dir: Path) -> None:
    """A start ended with `Argument list too long`, and the advice to install the engine again."""
    error = refusal(user_dir, f"env:\n  A: {'x' * 131_070}\n")
    assert "`env.A` takes 131072 bytes" in error.message
    (user_dir / "mine.yaml").write_text(f"{MINIMAL}env:\n  A: {'x' * 131_069}\n")
    assert len(load_profile("mine", user_dir).profile.env["A"]) == 131_069


def test_flag_values_keep_their_types(user_dir: Path) -> None:
    flags = "flags:\n  a: true\n  b: 1\n  c: 0.5\n  d: on\n  e: [x, y]\n  cpu-offload-gb: 1\n"
    (user_dir / "mine.yaml").write_text(MINIMAL + flags)
    found = load_profile("mine", user_dir).profile.flags
    assert list(found.values()) == [True, 1, 0.5, "on", ["x", "y"], 1]
    assert [type(value) for value in found.values()] == [bool, int, float, str, list, int]

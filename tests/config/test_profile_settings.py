"""Which of five places decides a setting, and what says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.config.loading import LoadedProfile, load_profile
from launcher.config.settings import (
    SETTINGS,
    ConfigValues,
    Resolved,
    UserConfig,
    load_user_config,
    resolve,
)
from launcher.errors import ExitCode, QlaunchError

HEAD = "title: x\nhardware:\n  device: cpu\n"
REQUIRED = "engine: e-profile\nmodel: m-profile\n"

# setting: (command line, environment text, what it means, profile, user config, default)
CASES: dict[str, tuple[object, str, object, object, object, object]] = {
    "name": ("n-flag", "n-env", "n-env", None, None, "mine"),
    "model": ("m-flag", "m-env", "m-env", "m-profile", None, None),
    "engine": ("e-flag", "e-env", "e-env", "e-profile", None, None),
    "engine_python": ("/flag", "/env", "/env", None, "/config", None),
    "host": ("::1", "localhost", "localhost", "10.0.0.3", "10.0.0.4", "127.0.0.1"),
    "port": (1, "2", 2, 3, 4, 30000),
    "metrics_port": (1, "2", 2, 3, 4, None),
    "metrics_host": ("::", "localhost", "localhost", "10.0.0.3", "10.0.0.4", "127.0.0.1"),
    "dtype": ("float32", "float16", "float16", "bfloat16", "float32", "auto"),
    "threads": (1, "2", 2, 3, 4, "auto"),
    "replicas": (2, "3", 3, 4, 5, 1),
    "start_timeout_s": (1.5, "2.5", 2.5, 3.5, 4.5, 600.0),
    "plugin": (False, "off", False, False, False, True),
    "start_method": ("fork", "spawn", "spawn", "fork", "spawn", "auto"),
    "api_key_file": ("/flag", "/env", "/env", "/profile", "/config", None),
    "allow_unauthenticated": (True, "yes", True, None, True, False),
    "offline": (True, "1", True, None, True, False),
}


def scalar(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value!r}".replace('"', "'")


def profile(tmp_path: Path, **fields: object) -> LoadedProfile:
    lines = "".join(f"{name}: {scalar(value)}\n" for name, value in fields.items())
    required = "" if "model" in fields or "engine" in fields else REQUIRED
    if required == "":
        required = "".join(
            line + "\n" for line in REQUIRED.splitlines() if line.split(":")[0] not in fields
        )
    (tmp_path / "mine.yaml").write_text(HEAD + lines + required)
    return load_profile(str(tmp_path / "mine.yaml"), tmp_path)


def config(tmp_path: Path, text: str) -> UserConfig:
    (tmp_path / "config.yaml").write_text(text)
    return load_user_config(tmp_path)


def one(
    loaded: LoadedProfile,
    given: dict[str, object | None] | None = None,
    environ: dict[str, str] | None = None,
    user: UserConfig | None = None,
) -> Resolved:
    return resolve(loaded, given or {}, environ or {}, user or UserConfig())


def test_every_setting_is_covered_here() -> None:
    assert {setting.name for setting in SETTINGS} == set(CASES)
    assert {*CASES, "cache", "flags", "sources"} == set(Resolved.__struct_fields__)


@pytest.mark.parametrize("name", CASES)
def test_precedence(tmp_path: Path, name: str) -> None:
    flag, text, env, in_profile, in_config, default = CASES[name]
    variable = f"QLAUNCH_{name.upper()}"
    bare = profile(tmp_path)
    full = bare if in_profile is None else profile(tmp_path, **{name: in_profile})
    user = UserConfig()
    if in_config is not None:
        user = config(tmp_path, f"# mine\n{name}: {scalar(in_config)}\n")

    def expect(resolved: Resolved, value: object, source: str) -> None:
        assert (getattr(resolved, name), resolved.sources[name]) == (value, source)

    expect(one(full, {name: flag}, {variable: text}, user), flag, "command line")
    expect(one(full, {name: None}, {variable: text}, user), env, f"environment {variable}")
    if in_profile is not None:
        expect(one(full, {}, {variable: ""}, user), in_profile, f"profile {full.path}:4")
    if in_config is not None:
        expect(one(bare, {}, {}, user), in_config, f"user config {tmp_path}/config.yaml:2")
    if name not in ("model", "engine"):
        expect(one(bare), default, "default")


def test_every_setting_has_a_source(tmp_path: Path) -> None:
    assert set(one(profile(tmp_path)).sources) == set(CASES)


def test_flags_are_merged_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        HEAD + REQUIRED + "flags:\n  from-profile: 1\n  both: profile\n  all: profile\n"
    )
    loaded = load_profile(str(tmp_path / "mine.yaml"), tmp_path)
    user = config(tmp_path, "flags:\n  from-config: true\n  both: config\n  all: config\n")
    resolved = one(loaded, {"flags": {"all": "line", "from-line": [1, "x"][1:]}}, {}, user)
    assert resolved.flags == {
        "from-config": True,
        "both": "profile",
        "all": "line",
        "from-profile": 1,
        "from-line": ["x"],
    }
    assert resolved.sources["flags.from-config"] == f"user config {tmp_path}/config.yaml:2"
    assert resolved.sources["flags.both"] == f"profile {tmp_path}/mine.yaml:8"
    assert resolved.sources["flags.all"] == "command line"


def test_a_flag_of_the_command_line_can_switch_one_of_the_profile_off(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(HEAD + REQUIRED + "flags:\n  sleep-on-idle: true\n")
    loaded = load_profile(str(tmp_path / "mine.yaml"), tmp_path)
    assert one(loaded, {"flags": {"sleep-on-idle": False}}).flags == {"sleep-on-idle": False}


@pytest.mark.parametrize("key", ["port", "--x", "api-key", "offload-mode", "X"])
def test_flags_of_the_command_line_keep_to_the_same_rules(tmp_path: Path, key: str) -> None:
    with pytest.raises(QlaunchError, match=r"^command line: `flags") as caught:
        one(profile(tmp_path), {"flags": {key: "x"}})
    assert caught.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("port", "x"),
        ("port", "70000"),
        ("port", "-1"),
        ("port", "1.5"),
        ("port", "1e3"),
        ("port", "9" * 5000),
        ("port", "true"),
        ("threads", "0"),
        ("threads", "many"),
        ("dtype", "half"),
        ("start_method", "forkserver"),
        ("start_timeout_s", "0"),
        ("start_timeout_s", "inf"),
        ("start_timeout_s", "nan"),
        ("plugin", "maybe"),
        ("offline", "2"),
        ("allow_unauthenticated", "TRUEISH"),
        ("host", "a b"),
        ("host", "0.0.0.0\n"),
        ("name", "../x"),
        ("name", "x\n"),
        ("name", "X"),
        ("engine", "a/b"),
        ("model", "  "),
        ("engine_python", " "),
        ("api_key_file", "\0"),
    ],
)
def test_bad_values_name_their_variable(tmp_path: Path, name: str, text: str) -> None:
    variable = f"QLAUNCH_{name.upper()}"
    with pytest.raises(QlaunchError, match=rf"^environment {variable}: ") as caught:
        one(profile(tmp_path), {}, {variable: text})
    assert caught.value.code == "setting_invalid"
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.message.isprintable()
    with pytest.raises(QlaunchError, match=r"^command line: "):
        one(profile(tmp_path), {name: text})


@pytest.mark.parametrize("value", [float("inf"), float("nan"), True, -1])
def test_bad_values_of_other_types(tmp_path: Path, value: Any) -> None:
    with pytest.raises(QlaunchError, match=r"^command line: "):
        one(profile(tmp_path), {"start_timeout_s": value})


@pytest.mark.parametrize("text", ["1", "true", "YES", "On"])
def test_words_for_true(tmp_path: Path, text: str) -> None:
    assert one(profile(tmp_path), {}, {"QLAUNCH_OFFLINE": text}).offline is True


@pytest.mark.parametrize("text", ["0", "false", "NO", "Off"])
def test_words_for_false(tmp_path: Path, text: str) -> None:
    assert one(profile(tmp_path), {}, {"QLAUNCH_PLUGIN": text}).plugin is False


def test_a_name_made_of_digits_stays_text(tmp_path: Path) -> None:
    assert one(profile(tmp_path), {}, {"QLAUNCH_NAME": "123"}).name == "123"


def test_the_auto_of_threads_can_be_given(tmp_path: Path) -> None:
    loaded = profile(tmp_path, threads=3)
    assert one(loaded, {}, {"QLAUNCH_THREADS": "auto"}).threads == "auto"
    assert one(loaded, {"threads": "5"}).threads == 5


def test_relative_paths_are_meant_from_where_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    loaded = profile(tmp_path, api_key_file="keys/a")
    assert one(loaded).api_key_file == str(tmp_path / "keys" / "a")
    assert one(loaded, {"api_key_file": "b"}).api_key_file == str(here / "b")
    assert one(loaded, {"api_key_file": "~/b"}).api_key_file == str(tmp_path / "home" / "b")
    user = config(tmp_path, "engine_python: env/bin/python\n")
    assert one(loaded, {}, {}, user).engine_python == str(tmp_path / "env" / "bin" / "python")


def test_the_python_of_an_environment_is_not_resolved_away(tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to("/usr/bin/env")
    found = one(profile(tmp_path), {"engine_python": str(tmp_path / "python")})
    assert found.engine_python == str(tmp_path / "python")


def test_a_setting_that_does_not_exist_is_a_programming_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="prot"):
        one(profile(tmp_path), {"prot": 1})


@pytest.mark.parametrize("text", ["", "# port: 31000\n", "---\n", "flags:\n", "port: null\n"])
def test_a_user_config_whose_lines_are_all_comments_says_nothing(tmp_path: Path, text: str) -> None:
    """It ended every command, until the file was removed."""
    (tmp_path / "config.yaml").write_text(text)
    assert load_user_config(tmp_path).values == UserConfig().values


def test_no_user_config_is_an_empty_one(tmp_path: Path) -> None:
    assert load_user_config(tmp_path) == UserConfig()
    assert UserConfig().values == ConfigValues()


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("port: 1\nprot: 1\n", 2, "did you mean `port`"),
        ("port: 70000\n", 1, "at most 65535"),
        ("offline: yes\n", 1, "true or false"),
        ("offline: true\nhost: a b\n", 2, "neither an address nor a name"),
        ("flags:\n  a: 1\n  --b: 1\n", 3, "without dashes"),
        ("flags:\n  api-key: x\n", 2, "set by qlaunch itself"),
        ("engine_python: ''\n", 1, "the path is empty"),
        ("model: x\n", 1, "unknown key `model`"),
        ("a: [\n", 2, "not valid YAML"),
    ],
)
def test_what_a_user_config_must_keep_to(tmp_path: Path, text: str, line: int, says: str) -> None:
    with pytest.raises(QlaunchError) as caught:
        config(tmp_path, text)
    assert caught.value.message.startswith(f"user config {tmp_path}/config.yaml:{line}: ")
    assert says in caught.value.message
    assert (caught.value.code, caught.value.exit_code) == ("config_invalid", ExitCode.USAGE)


def test_a_folder_where_the_user_config_belongs(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(QlaunchError, match="is a folder where a file belongs"):
        load_user_config(tmp_path)

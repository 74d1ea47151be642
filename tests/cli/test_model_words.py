"""A model where a profile or a service is expected: `./folder`, `hf:ORG/NAME`. It works as in `up`,
or one sentence says the command to type."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

import pytest

from launcher.app import contenders, named_model, own_profile
from launcher.app.prepare import Request, prepare, profiles_dir
from launcher.cli import bench, embed
from launcher.paths import dirs
from tests.checkpoints import make_bert, make_qwen3
from tests.cli.commandline import Run
from tests.cli.conftest import SetMachine
from tests.cli.services import leave_service
from tests.cli.test_export import service
from tests.cli.test_tune import Bench
from tests.samples import machine
from tests.units import exec_start

SERVICE_COMMANDS = (
    *("status", "logs", "restart", "down", "forget", "smoke", "verify", "client", "gateway"),
    "top --once",
)
ABSENT = "hf:acme/tiny"


@pytest.fixture
def here(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `my-finetune` in it, which is the current one."""
    folder = tmp_path / "here"
    folder.mkdir()
    make_bert(folder / "my-finetune", pooling="mean")
    monkeypatch.chdir(folder)
    return folder


class TestWhereAServiceIsExpected:
    @pytest.mark.parametrize("command", SERVICE_COMMANDS)
    def test_the_service_that_serves_it_is_named(self, command: str, run: Run, here: Path) -> None:
        service(profile="./my-finetune", name="walk")
        answer = run(*command.split(), "./my-finetune", "--json")
        name = command.split(maxsplit=1)[0]
        assert answer.code == 2
        assert (
            answer.error["message"] == f"`./my-finetune` is a model, and `{name}` takes a service"
        )
        assert answer.error["fix"] == f"walk serves it: qlaunch {name} walk"

    @pytest.mark.parametrize("command", SERVICE_COMMANDS)
    @pytest.mark.parametrize("model", ["./my-finetune", ABSENT])
    def test_nothing_serves_it(self, command: str, model: str, run: Run, here: Path) -> None:
        answer = run(*command.split(), model, "--json")
        assert (answer.code, answer.error["code"]) == (3, "no_such_service")
        assert answer.error["message"] == f"no service serves the model `{model}`"
        assert f"qlaunch up {model}" in answer.error["fix"]

    def test_what_is_no_model_is_no_name(self, run: Run, here: Path) -> None:
        answer = run("status", "./nope", "--json")
        assert (answer.code, answer.error["code"]) == (2, "bad_service_name")

    def test_a_profile_s_file_names_its_service(self, run: Run, here: Path) -> None:
        leave_service("mine", "r")
        answer = run("down", "./mine.yaml", "--json")
        assert answer.error["fix"] == "the service of that name: qlaunch down mine"

    def test_the_service_that_is_up_goes_before_one_that_is_over(self, here: Path) -> None:
        folder = profiles_dir(dirs())
        for name in ("my-finetune", "second"):
            service(profile="./my-finetune", name=name)
        assert named_model.meant("./my-finetune", folder) == "my-finetune"
        leave_service("second", "run", "ready")
        assert named_model.meant("./my-finetune", folder) == "second"
        assert named_model.meant("my-finetune", folder) == "my-finetune"


class TestWhereAProfileIsExpected:
    @pytest.mark.parametrize("command", ["show", "path", "validate", "edit"])
    @pytest.mark.parametrize(
        ("model", "name"),
        [
            ("./my-finetune", "my-finetune"),
            (ABSENT, "tiny"),
            ("hf:acme/Tiny_2.B@a/b", "tiny_2.b"),
            ("./", "mine"),
        ],
    )
    def test_a_file_of_a_profile_is_made_first(
        self, command: str, model: str, name: str, run: Run, here: Path
    ) -> None:
        answer = run("profiles", command, model, "--json")
        assert answer.code == 2
        fix = f"qlaunch profiles new {name} --model {shlex.quote(model)}"
        assert answer.error["fix"] == f"for a model make a profile first: {fix}"

    @pytest.mark.parametrize(
        "words", [("profiles", "show"), ("bundle", "make", "x.tar", "--profile")]
    )
    def test_a_folder_that_is_not_there_is_no_model(
        self, words: tuple[str, ...], run: Run, here: Path
    ) -> None:
        answer = run(*words, "./nope", "--json")
        assert (answer.code, answer.error["code"]) == (2, "profile_unknown")
        assert answer.error["message"] == "./nope does not exist"

    def test_recommend_is_about_the_machine(self, run: Run, here: Path) -> None:
        answer = run("recommend", "./my-finetune", "--json")
        assert answer.code == 2
        assert answer.error["fix"].endswith("qlaunch plan ./my-finetune")

    @pytest.mark.parametrize("command", ["compare", "tune", "plan", "export systemd", "bench"])
    @pytest.mark.parametrize(
        ("word", "code"),
        [
            ("./nope", "model_not_found"),
            ("hf:acme", "model_source_invalid"),
            ("hg:acme/tiny", "model_source_invalid"),
        ],
    )
    def test_a_slip_of_the_hand(
        self, command: str, word: str, code: str, run: Run, here: Path
    ) -> None:
        answer = run(*command.split(), word, "--json")
        assert (answer.code, answer.error["code"]) == (2, code)

    @pytest.mark.parametrize("word", ["./my-finetune", "all-minilm-l6-v2"])
    def test_bench_starts_it_where_nothing_serves_it(
        self, word: str, run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def start(words: tuple[str, ...], *_: object) -> object:
            asked.extend(words)
            raise KeyboardInterrupt

        monkeypatch.setattr(bench, "_from_start", start)
        assert run("bench", word).code == 130
        assert asked == [word]

    def test_embed_takes_a_folder_for_a_model_and_a_file_for_texts(self, here: Path) -> None:
        (here / "t.txt").write_text("a")
        file = Path("t.txt")
        alone = partial(embed._split, served=False)
        assert alone(("t.txt", "./my-finetune")) == ((file,), ("./my-finetune",))
        assert alone(("t.txt", "my-finetune")) == ((file,), ("my-finetune",))
        assert alone(("t.txt", ABSENT)) == ((file,), (ABSENT,))
        assert alone(("t.txt", "gte-tiny")) == ((file,), ("gte-tiny",))
        assert alone(("t.txt", "./more.jsonl")) == ((file, Path("./more.jsonl")), ())
        assert alone(("t.txt", "more.jsonl")) == ((file, Path("more.jsonl")), ())
        folder = Path("my-finetune")
        assert embed._split(("t.txt", "my-finetune"), served=True) == ((file, folder), ())

    def test_embed_of_a_word_that_is_nothing_says_so(self, run: Run, here: Path) -> None:
        """It said that no service was named, and none ran."""
        (here / "t.txt").write_text("a")
        answer = run("embed", "t.txt", "nosuchservice", "-o", "out.jsonl", "--json")
        assert (answer.code, answer.error["code"]) == (2, "input_unreadable")
        assert "no service, profile or model of that name" in answer.error["message"]

    def test_embed_of_a_model_alone_asks_for_files(self, run: Run, here: Path) -> None:
        answer = run("embed", "./my-finetune", "-o", "out.jsonl", "--json")
        assert answer.code == 2
        assert "name the files to embed" in answer.error["message"]

    def test_compare_names_a_model_by_its_service(self, here: Path) -> None:
        found, _ = contenders.profile_contender(
            "./my-finetune", lambda _: None, command_name="compare", fetch=False
        )
        assert (found.facts.name, found.facts.profile) == ("my-finetune", "cpu-minilm")
        beside, _ = contenders.profile_contender(
            "cpu-minilm", lambda _: None, command_name="compare", fetch=False
        )
        assert beside.facts.name == "cpu-minilm"

    def test_the_export_of_a_folder_is_of_the_service_that_serves_it(
        self, run: Run, here: Path
    ) -> None:
        """The same trap by another word: it came out on the profile's port, as if it were new."""
        plan = service(profile="./my-finetune", port="30123", dtype="float32")
        answer = run("export", "systemd", "./my-finetune", "--json")
        assert answer.code == 0, answer.out
        words = exec_start(answer.data["unit"])
        assert words[words.index("--port") + 1] == "30123"
        assert words[words.index("--dtype") + 1] == "float32"
        assert answer.data["fingerprint"] == plan.fingerprint
        fresh = run("export", "systemd", "./my-finetune", "--from-profile", "--json").data
        assert "30123" not in fresh["unit"]


class TestTune:
    def test_a_folder_becomes_a_profile_with_what_was_found(
        self, run: Run, here: Path, ready: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Bench(monkeypatch)
        answer = run("tune", "./my-finetune", "--repeats", "2", "--quiet", "--json")
        assert answer.code == 0, answer.out
        path = ready / "config" / "profiles" / "my-finetune-tuned.yaml"
        assert answer.data["output"] == str(path)
        text = path.read_text("utf-8")
        assert "# Written by `qlaunch tune ./my-finetune` on" in text
        assert "extends: cpu-minilm\n" in text
        data = run("plan", "my-finetune-tuned", "--json").data
        assert data["model_path"] == str(here / "my-finetune")
        argv = data["engine"]["argv"]
        assert argv[argv.index("--dp-size") + 1] == "2"

    def test_what_makes_a_model_fit_is_in_the_profile(
        self, run: Run, here: Path, on: SetMachine, tmp_path: Path
    ) -> None:
        make_qwen3(here / "decoder", max_position=2048)
        prepared = prepare(Request("./decoder", {"name": "decoder"}), lambda _: None)
        path = own_profile.of_model(prepared, tmp_path)
        again = prepare(Request(str(path), {}), lambda _: None)
        assert again.plan.engine.argv == prepared.plan.engine.argv
        assert again.plan.service == "decoder"
        on(machine())
        text = own_profile.text(
            "d", prepared.profile, str(here / "decoder"), by_path=False, flags={"max-x": 7}
        )
        assert text.endswith("\nflags:\n  max-x: 7\n")

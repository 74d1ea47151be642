"""`up` and `plan` of a model instead of a profile, and of what is not on this machine."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from launcher.app import contenders, known_model
from launcher.model.checkpoint import Source
from launcher.model.foreseen import from_cache
from tests.checkpoints import make_bert, make_qwen3
from tests.cli.commandline import Answer, Run
from tests.cli.conftest import SetMachine
from tests.samples import GIB, gpu, installed, machine


def dry(run: Run, *words: str) -> dict[str, Any]:
    answer = run("up", *words, "--dry-run", "--json")
    assert answer.code == 0, answer.out
    return answer.data


def option(data: dict[str, Any], name: str) -> str:
    argv: list[str] = data["engine"]["argv"]
    return argv[argv.index(name) + 1]


@pytest.fixture
def folder(ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with two checkpoints in it."""
    here = tmp_path / "work"
    here.mkdir()
    make_bert(here / "My Encoder", pooling="mean")
    make_qwen3(here / "my-decoder", max_position=32768)
    monkeypatch.chdir(here)
    return here


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("what prints asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(known_model, "obtain", refuse)


class TestAModelInsteadOfAProfile:
    @pytest.mark.parametrize("command", [["up", "--dry-run"], ["plan"]], ids=" ".join)
    def test_a_folder_gets_the_best_profile_of_its_kind(
        self, command: list[str], run: Run, folder: Path
    ) -> None:
        data = run(*command, "./my-decoder", "--json").data
        assert (data["profile"], data["service"]) == ("cpu-qwen3-0.6b", "my-decoder")
        assert data["model_path"] == str(folder / "my-decoder")
        [note] = data["notes"]
        assert note.startswith("profile cpu-qwen3-0.6b: the best here for a decoder of ")

    def test_its_service_gets_a_name_that_a_service_can_have(self, run: Run, folder: Path) -> None:
        data = dry(run, "./My Encoder")
        assert (data["profile"], data["service"]) == ("cpu-minilm", "my-encoder")
        assert dry(run, "./My Encoder", "--name", "mine")["service"] == "mine"

    def test_the_line_is_on_stdout_for_people(self, run: Run, folder: Path) -> None:
        lines = run("plan", str(folder / "my-decoder")).out.splitlines()
        assert lines[0].startswith("note      profile cpu-qwen3-0.6b: the best here for a decoder")

    def test_what_would_prove_it_is_the_command_that_was_asked_about(
        self, run: Run, folder: Path
    ) -> None:
        text = run("plan", "./My Encoder", "--json").data["evidence"]["text"]
        assert text.endswith("qlaunch up './My Encoder' proves it")

    def test_a_folder_without_a_slash_works_where_no_profile_has_its_name(
        self, run: Run, folder: Path
    ) -> None:
        assert dry(run, "my-decoder")["model_path"] == str(folder / "my-decoder")

    def test_a_name_that_is_a_profile_and_a_folder_is_the_profile_and_says_so(
        self, run: Run, folder: Path
    ) -> None:
        (folder / "my-decoder").rename(folder / "cpu-minilm")
        data = dry(run, "cpu-minilm")
        assert (data["profile"], data["model"]) == ("cpu-minilm", "all-minilm-l6-v2")
        [note] = data["notes"]
        assert note == (
            "`cpu-minilm` is a profile, and is taken as one; the folder of that name is"
            " ./cpu-minilm"
        )
        assert dry(run, "./cpu-minilm")["profile"] == "cpu-qwen3-0.6b"

    def test_a_profile_written_for_the_model_comes_first(self, run: Run, folder: Path) -> None:
        own = folder.parent / "config" / "profiles" / "mine.yaml"
        own.write_text(f"extends: cpu-qwen3-0.6b\nmodel: {folder / 'my-decoder'}\nport: 4321\n")
        data = dry(run, "./my-decoder")
        assert (data["profile"], option(data, "--port")) == ("mine", "4321")
        assert data["notes"] == ["profile mine: written for this model"]

    def test_ones_own_profile_of_a_folder_is_listed_with_what_it_would_take(
        self, run: Run, folder: Path
    ) -> None:
        """It was listed as "not here yet"."""
        profiles = folder.parent / "config" / "profiles"
        (profiles / "mine.yaml").write_text(f"extends: cpu-minilm\nmodel: {folder}/My Encoder\n")
        (profiles / "gone.yaml").write_text("extends: cpu-minilm\nmodel: ./absent\n")
        (profiles / "typo.yaml").write_text("extends: cpu-minilm\nmodel: all-minilm\n")
        listed = {each["name"]: each for each in run("profiles", "list", "--json").data["profiles"]}
        assert (listed["mine"]["bucket"], listed["mine"]["reason"]) == ("runs", None)
        assert listed["gone"]["bucket"] == listed["typo"]["bucket"] == "cannot"
        assert listed["gone"]["reason"] == f"{profiles}/absent does not exist"
        assert "there is no model card 'all-minilm'; did you mean" in listed["typo"]["reason"]

    def test_a_measured_mode_of_a_model_gets_a_name_of_its_service(self, folder: Path) -> None:
        assert contenders.service_name("./My Encoder", "compare") == "compare-my-encoder"
        assert contenders.service_name("hf:org/Name", "tune") == "tune-name"
        assert contenders.service_name("./mine.v2.yaml", "tune") == "tune-mine.v2"

    def test_a_card_by_its_name_and_a_source_that_a_card_names(self, run: Run, ready: Path) -> None:
        by_card = dry(run, "all-minilm-l6-v2")
        assert (by_card["profile"], by_card["service"]) == ("cpu-minilm", "all-minilm-l6-v2")
        by_source = dry(run, "hf:sentence-transformers/all-MiniLM-L6-v2")
        assert by_source["model"] == "all-minilm-l6-v2"
        assert by_source["profile"] == "cpu-minilm"

    @pytest.mark.parametrize(
        ("word", "message", "fix"),
        [
            (".", "is not a model folder: it has no config.json", "did you mean"),
            ("./absent", "work/absent does not exist", "check the path"),
            ("org/name", "work/org/name does not exist", "write hf:org/name"),
            ("./my-decoder/config.json", "config.json is a file", "work/my-decoder"),
            ("./note.txt", "note.txt is a file", "ends in .yaml"),
            ("cpu-minilm.yaml", "did you mean the profile `cpu-minilm`?", "profiles list"),
            ("hf:name", "does not name a repository as ORG/NAME", "hf:ORG/NAME"),
            ("https://x/y", "starts with `https:`, which is not a kind of source", "hf:ORG/NAME"),
            ("hub.example/org/name", "does not exist", "on the hub write hf:org/name"),
            ("./dangling", "is a link to nowhere, which does not exist", "mend the link"),
            ("./loop", "is a link to loop, which is a link too", "mend the link"),
            ("all-MiniLM-L6-v2", "did you mean the model `all-minilm-l6-v2`?", "model list"),
            ("cpu-minlm", "no profile `cpu-minlm`; did you mean `cpu-minilm`", "profiles list"),
        ],
    )
    def test_what_is_neither_gets_a_sentence(
        self, word: str, message: str, fix: str, run: Run, folder: Path
    ) -> None:
        Path("dangling").symlink_to("nowhere")
        Path("loop").symlink_to("loop")
        Path("note.txt").touch()
        answer: Answer = run("plan", word, "--json")
        assert answer.code == 2
        assert message in answer.error["message"]
        assert fix in answer.error["fix"]

    @pytest.mark.parametrize(
        "name",
        ["-dash", "--help", ".hidden", "a b", "trail ", "a:b", "hf:x", "50% $HOME", "q'\"", "模型"],
    )
    def test_a_folder_may_have_any_name(self, name: str, run: Run, folder: Path) -> None:
        (folder / name).symlink_to(folder / "My Encoder")
        plan = dry(run, f"./{name}")
        assert plan["profile"] == "cpu-minilm"
        argv = plan["engine"]["argv"]
        assert argv[argv.index("--model-path") + 1] == str(folder / name)
        assert not argv[argv.index("--served-model-name") + 1].startswith("-")

    def test_two_models_are_one_too_many(self, run: Run, folder: Path) -> None:
        answer = run("up", "./my-decoder", "--model", "all-minilm-l6-v2", "--json")
        assert (answer.code, answer.error["code"]) == (2, "usage")
        assert "two models are given" in answer.error["message"]

    def test_where_no_profile_can_serve_it_the_nearest_reason_is_told(
        self, run: Run, folder: Path, on: SetMachine
    ) -> None:
        on(machine(available=GIB // 4, total=GIB))
        answer = run("plan", "./my-decoder", "--json")
        assert (answer.code, answer.error["code"]) == (4, "does_not_fit")
        assert "no profile serves" in answer.error["message"]
        assert "on this machine: cpu-" in answer.error["message"]
        assert " of RAM" in answer.error["message"]

    def test_of_profiles_that_suit_alike_the_one_for_a_model_of_its_size(
        self, run: Run, folder: Path, on: SetMachine
    ) -> None:
        on(machine(gpus=(gpu(total=15 * GIB),)))
        installed(folder.parent / "data" / "engines", "turing")
        assert dry(run, "all-minilm-l6-v2")["profile"] == "gpu-minilm"
        assert dry(run, "./My Encoder")["profile"] == "gpu-minilm", "the one that was measured"
        # Neither was measured: the one for the smaller model.
        profiles = folder.parent / "config" / "profiles"
        (profiles / "gpu-minilm.yaml").write_text("extends: gpu-minilm\nmeasured: false\n")
        assert dry(run, "./My Encoder")["profile"] == "gpu-bge-micro"

    def test_ones_own_in_front_of_a_shipped_one_is_taken_too(self, run: Run, folder: Path) -> None:
        profiles = folder.parent / "config" / "profiles"
        (profiles / "cpu-qwen3-0.6b.yaml").write_text("extends: cpu-qwen3-0.6b\nport: 4321\n")
        assert option(dry(run, "./my-decoder"), "--port") == "4321"

    def test_another_machine_gets_the_profile_of_its_card(
        self, run: Run, home: Path, on: SetMachine
    ) -> None:
        on(machine(gpus=(gpu(total=15 * GIB),)))
        installed(home / "data" / "engines", "turing")
        data = run("plan", "hf:Qwen/Qwen3-Embedding-0.6B", "--json").data
        assert (data["profile"], data["model"]) == ("t4-fp16", "qwen3-embedding-0.6b")


@pytest.mark.usefixtures("no_network")
class TestWhatIsNotHere:
    @pytest.mark.parametrize("command", [["up", "--dry-run"], ["plan"]], ids=" ".join)
    def test_a_model_is_planned_from_its_card(
        self, command: list[str], run: Run, home: Path, on: SetMachine
    ) -> None:
        """`plan cpu-qwen3-0.6b` refused what `plan t4-fp16 --gpu T4` planned."""
        on(machine())
        installed(home / "data" / "engines")
        data = run(*command, "cpu-qwen3-0.6b", "--json").data
        assert data["model_path"] == "<qwen3-embedding-0.6b, fetched at start>"
        assert option(data, "--model-path") == data["model_path"]
        [absent] = data["absent"]
        assert (absent["kind"], absent["name"]) == ("model", "qwen3-embedding-0.6b")
        assert "planned from its model card; `up` fetches it from hf:Qwen/" in absent["message"]
        assert data["memory"]["predicted"]["ram_bytes"] > 1e9

    def test_an_engine_is_planned_as_it_would_be_installed(
        self, run: Run, home: Path, on: SetMachine
    ) -> None:
        on(machine())
        data = run("plan", "cpu-minilm", "--json").data
        assert [each["kind"] for each in data["absent"]] == ["engine", "model"]
        assert "is not installed: `up` installs it first (" in data["absent"][0]["message"]
        lines = run("plan", "cpu-minilm", "--offline").out.splitlines()
        assert lines[0].startswith(
            "not here  engine cpu (SGLang 0.5.23) is not installed: `up` would"
        )
        assert lines[0].endswith(", and --offline forbids that")
        assert not (home / "data").exists()

    def test_what_nobody_knows_is_not_made_up(self, run: Run, ready: Path) -> None:
        answer = run("plan", "hf:nobody/knows-this", "--json")
        assert (answer.code, answer.error["code"]) == (2, "model_not_found")
        assert "nothing is known of it" in answer.error["message"]
        assert answer.error["fix"] == "qlaunch model pull hf:nobody/knows-this"

    def test_a_hubs_cached_metadata_are_enough(
        self, run: Run, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = make_qwen3(tmp_path / "whole", max_position=32768)
        for file in whole.glob("*.safetensors"):
            file.unlink()
        monkeypatch.setattr("launcher.model.foreseen.locate_hub", lambda _: whole)
        data = run("plan", "hf:nobody/Some-Decoder", "--json").data
        assert (data["profile"], data["service"]) == ("cpu-qwen3-0.6b", "some-decoder")
        assert data["model"] == "Some-Decoder"
        assert "planned from the hub's metadata in this machine's cache" in str(data["absent"])
        (whole / "1_Pooling" / "config.json").unlink()  # a client fetches file by file
        again = run("plan", "hf:nobody/Some-Decoder", "--json").data
        assert again["memory"]["predicted"] == data["memory"]["predicted"]
        (whole / "config.json").write_text("{}")
        assert from_cache(Source(kind="hf", location="nobody/Some-Decoder")) is None

    def test_a_port_that_is_picked_at_the_start_is_said_in_words(
        self, run: Run, ready: Path, tmp_path: Path
    ) -> None:
        """It was `{port}`."""
        assert option(dry(run, "cpu-minilm", "--port", "0"), "--port") == "<picked at start>"
        out = run("plan", "cpu-minilm", "--port", "0").out
        assert "--port '<picked at start>'" in out
        assert "{port}" not in out


def test_a_folder_that_is_not_there_is_no_plan(run: Run, ready: Path) -> None:
    answer = run("plan", "cpu-minilm", "--model", "/absent/model", "--json")
    assert (answer.code, answer.error["code"]) == (2, "model_not_found")

"""`qlaunch profiles new | edit | path`: profiles of one's own."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.app import own_profile
from launcher.config.loading import list_profiles, load_profile
from launcher.errors import QlaunchError
from tests.checkpoints import make_bert, make_qwen3
from tests.cli.commandline import Answer, Run

Editor = Callable[[str], None]


@pytest.fixture
def folder(ready: Path) -> Path:
    return ready / "config" / "profiles"


@pytest.fixture
def editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Editor:
    """Make a shell command, which finds the file in $1, the editor."""

    def use(command: str) -> None:
        script = tmp_path / "the editor"
        script.write_text(f"#!/bin/sh\n{command}\n")
        script.chmod(0o755)
        monkeypatch.setenv("VISUAL", f"{shlex.quote(str(script))} ")

    return use


class TestNew:
    def test_for_a_folder_the_best_profile_is_the_parent(
        self, run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make_qwen3(tmp_path / "here" / "my finetune: 2", max_position=32768)
        monkeypatch.chdir(tmp_path / "here")
        data = run("profiles", "new", "mine", "--model", "./my finetune: 2", "--json").data
        assert data["path"] == str(folder / "mine.yaml")
        assert data["extends"] == "cpu-qwen3-0.6b"
        loaded = load_profile("mine", folder)
        assert loaded.profile.model == str(tmp_path / "here" / "my finetune: 2")
        assert not loaded.profile.measured
        monkeypatch.chdir(tmp_path)
        planned = run("plan", "mine", "--json").data
        assert (planned["profile"], planned["service"]) == ("mine", "mine")
        assert planned["model"] == "my finetune- 2"

    def test_one_in_front_of_a_shipped_one_says_so(self, run: Run, folder: Path) -> None:
        """`cpu-minilm` was another profile from then on, without a word."""
        told = "note      it stands in front of the profile cpu-minilm that comes with qlaunch"
        assert told in run("profiles", "new", "cpu-minilm").out
        (folder / "cpu-minilm.yaml").unlink()
        assert run("profiles", "new", "cpu-minilm", "--json").data["shadows"] is True
        answer = run("profiles", "new", "mine", "--json")
        assert answer.data["shadows"] is False
        assert "note" not in run("profiles", "new", "other").out

    def test_it_is_listed_shown_and_valid(self, run: Run, folder: Path) -> None:
        assert run("profiles", "new", "mine").code == 0
        shown = run("profiles", "show", "mine").out
        assert "extends: cpu-minilm\n" in shown
        assert "# model: all-minilm-l6-v2\n" in shown
        assert run("profiles", "validate", "mine").code == 0
        listed = {each["name"]: each for each in run("profiles", "list", "--json").data["profiles"]}
        assert listed["mine"]["shipped"] is False
        assert listed["mine"]["title"] == "mine, all-minilm-l6-v2 on a CPU"

    def test_every_suggestion_in_it_is_valid_when_its_mark_is_taken_away(
        self, run: Run, folder: Path
    ) -> None:
        assert run("profiles", "new", "mine", "--from", "cpu-minilm").code == 0
        path = folder / "mine.yaml"
        lines = path.read_text().splitlines()
        at = next(i for i, line in enumerate(lines) if line.startswith("# port:"))
        for number in range(at, len(lines)):
            text = lines[number].removeprefix("# ")
            if ":" in text.split(" #")[0] and not text[:1].isupper():
                lines[number] = text
        path.write_text("\n".join(lines))
        profile = load_profile("mine", folder).profile
        assert profile.cors_origins == ["https://app.example"]
        assert "max-total-tokens" not in profile.flags
        planned = run("plan", "mine", "--json").data
        argv = planned["engine"]["argv"]
        assert argv[argv.index("--max-total-tokens") + 1] == "16384"

    def test_a_file_is_extended_by_its_path(self, run: Run, folder: Path, tmp_path: Path) -> None:
        base = tmp_path / "base one.yaml"
        base.write_text("extends: cpu-minilm\nport: 1234\n")
        assert run("profiles", "new", "mine", "--from", str(base)).code == 2  # no profile's name
        base = base.rename(tmp_path / "base-one.yaml")
        assert run("profiles", "new", "mine", "--from", str(base)).code == 0
        assert load_profile("mine", folder).profile.port == 1234

    @pytest.mark.parametrize(
        ("words", "code", "error"),
        [
            (["mine", "--from", "no-such"], 2, "profile_unknown"),
            (["Mine"], 2, "profile_invalid"),
            (["../mine"], 2, "profile_invalid"),
            (["mine", "--model", "./absent"], 2, "model_not_found"),
            (["mine", "--model", "hf:nobody/knows-this"], 2, "model_not_found"),
            (["mine", "--model", "all-minilm"], 2, "model_unknown"),
        ],
    )
    def test_what_cannot_be_leaves_nothing(
        self, words: list[str], code: int, error: str, run: Run, folder: Path
    ) -> None:
        answer = run("profiles", "new", *words, "--json")
        assert (answer.code, answer.error["code"]) == (code, error)
        assert [path.name for path in folder.iterdir()] == ["models"]

    def test_one_that_is_there_is_not_replaced(self, run: Run, folder: Path) -> None:
        assert run("profiles", "new", "mine").code == 0
        before = (folder / "mine.yaml").read_text()
        answer = run("profiles", "new", "mine", "--from", "cpu-qwen3-0.6b", "--json")
        assert (answer.code, answer.error["code"]) == (9, "profile_exists")
        assert answer.error["fix"].endswith("qlaunch profiles edit mine")
        assert (folder / "mine.yaml").read_text() == before

    def test_a_model_whose_sizes_nobody_knows_needs_a_parent(self, run: Run, folder: Path) -> None:
        words = ["--model", "hf:nobody/knows-this", "--from", "cpu-minilm"]
        assert run("profiles", "new", "mine", *words).code == 0
        assert load_profile("mine", folder).profile.model == "hf:nobody/knows-this"

    def test_a_folder_that_cannot_be_written_is_told(self, run: Run, ready: Path) -> None:
        place = ready / "config" / "profiles"
        place.rename(ready / "elsewhere")
        place.write_text("")
        answer = run("profiles", "new", "mine", "--json")
        assert answer.code != 0
        assert str(place) in answer.error["message"]


class TestEdit:
    @pytest.fixture
    def mine(self, run: Run, folder: Path) -> Path:
        assert run("profiles", "new", "mine", "--from", "cpu-minilm").code == 0
        return folder / "mine.yaml"

    def edit(self, run: Run) -> Answer:
        return run("profiles", "edit", "mine", "--json")

    def test_a_valid_text_replaces_it(self, run: Run, mine: Path, editor: Editor) -> None:
        editor('echo "port: 4321" >> "$1"')
        answer = self.edit(run)
        assert answer.data == {"name": "mine", "path": str(mine), "changed": True}
        assert load_profile("mine", mine.parent).profile.port == 4321
        assert not own_profile.draft_of(mine).exists()

    def test_an_invalid_text_replaces_nothing_and_is_kept(
        self, run: Run, mine: Path, editor: Editor
    ) -> None:
        before = mine.read_text()
        editor('echo "prot: 4321" >> "$1"')
        answer = self.edit(run)
        assert (answer.code, answer.error["code"]) == (2, "profile_invalid")
        line = len(before.splitlines()) + 1
        assert (
            f"mine.yaml:{line}: unknown key `prot`; did you mean `port`"
            in (answer.error["message"])
        )
        assert "goes on with your text, which is kept in" in answer.error["fix"]
        assert mine.read_text() == before
        assert "mine" in {ref.name for ref in list_profiles(mine.parent)}
        editor('sed -i "s/^prot:/port:/" "$1"')
        assert self.edit(run).data["changed"] is True
        assert load_profile("mine", mine.parent).profile.port == 4321

    @pytest.mark.parametrize(
        ("line", "code", "near"),
        [
            ("model: gte-tniy", "model_unknown", "gte-tiny"),
            ("engine: cpuu", "engine_unknown", "cpu"),
        ],
    )
    def test_a_name_that_nothing_has_replaces_nothing(
        self, line: str, code: str, near: str, run: Run, mine: Path, editor: Editor
    ) -> None:
        before = mine.read_text()
        editor(f'echo "{line}" >> "$1"')
        answer = self.edit(run)
        assert answer.error["code"] == code
        assert f"did you mean `{near}`" in answer.error["message"]
        assert "goes on with your text, which is kept in" in answer.error["fix"]
        assert mine.read_text() == before

    def test_no_change_is_no_change(self, run: Run, mine: Path, editor: Editor) -> None:
        editor("true")
        assert self.edit(run).data["changed"] is False
        assert not own_profile.draft_of(mine).exists()

    def test_a_broken_profile_can_be_mended(self, run: Run, mine: Path, editor: Editor) -> None:
        mine.write_text("title: [\n")
        editor('echo "extends: cpu-minilm" > "$1"')
        assert self.edit(run).data["changed"] is True

    def test_what_the_editor_prints_is_not_the_document(
        self, run: Run, mine: Path, editor: Editor
    ) -> None:
        editor("echo noise")
        assert self.edit(run).document["command"] == "profiles edit"

    def test_an_editor_that_fails_changes_nothing(
        self, run: Run, mine: Path, editor: Editor
    ) -> None:
        before = mine.read_text()
        editor("exit 3")
        answer = self.edit(run)
        assert (answer.code, answer.error["code"]) == (1, "editor_failed")
        assert "ended with code 3" in answer.error["message"]
        assert mine.read_text() == before

    def test_a_change_by_someone_else_is_not_undone(
        self, run: Run, mine: Path, editor: Editor
    ) -> None:
        editor(f'echo "port: 1" >> "$1"; echo "# theirs" >> {shlex.quote(str(mine))}')
        answer = self.edit(run)
        assert (answer.code, answer.error["code"]) == (9, "profile_changed")
        assert mine.read_text().endswith("# theirs\n")
        assert own_profile.draft_of(mine).read_text().endswith("port: 1\n")

    def test_a_link_stays_a_link(
        self, run: Run, mine: Path, editor: Editor, tmp_path: Path
    ) -> None:
        real = mine.rename(tmp_path / "dotfiles.yaml")
        mine.symlink_to(real)
        editor('echo "port: 1" >> "$1"')
        assert self.edit(run).data["changed"] is True
        assert mine.is_symlink()
        assert real.read_text().endswith("port: 1\n")

    def test_a_shipped_one_is_not_edited(self, run: Run, ready: Path, editor: Editor) -> None:
        editor("true")
        answer = run("profiles", "edit", "cpu-minilm", "--json")
        assert (answer.code, answer.error["code"]) == (2, "profile_shipped")
        assert "qlaunch profiles new my-cpu-minilm --from cpu-minilm" in answer.error["fix"]

    def test_without_an_editor_and_a_terminal_it_says_what_to_set(
        self, run: Run, mine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("VISUAL", "EDITOR"):
            monkeypatch.delenv(name, raising=False)
        answer = self.edit(run)
        assert (answer.code, answer.error["code"]) == (2, "editor_missing")
        monkeypatch.setenv("EDITOR", "/absent/editor")
        assert "/absent/editor cannot be run" in self.edit(run).error["message"]
        monkeypatch.setenv("EDITOR", "'")
        assert "$EDITOR cannot be read" in self.edit(run).error["message"]

    def test_the_editor_is_the_users_before_ours(self, monkeypatch: pytest.MonkeyPatch) -> None:
        environ = {"EDITOR": "code --wait"}
        assert own_profile.editor(environ, terminal=False) == ["code", "--wait"]
        assert own_profile.editor({**environ, "VISUAL": "vi"}, terminal=False) == ["vi"]
        monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
        assert own_profile.editor({}, terminal=True) == ["/bin/editor"]
        with pytest.raises(QlaunchError):
            own_profile.editor({}, terminal=False)


def test_path_prints_the_folder_or_a_file(run: Run, folder: Path, tmp_path: Path) -> None:
    assert run("profiles", "path").out == f"{folder}\n"
    shipped = run("profiles", "path", "cpu-minilm", "--json").data
    assert shipped["path"].endswith("profiles/cpu-minilm.yaml")
    assert shipped["exists"] is True
    assert run("profiles", "path", "no-such").code == 2
    assert os.access(run("profiles", "path", "cpu-minilm").out.strip(), os.R_OK)


def test_an_encoder_gets_the_profile_of_encoders(run: Run, folder: Path, tmp_path: Path) -> None:
    model = make_bert(tmp_path / "bert", pooling="mean")
    answer = run("profiles", "new", "mine", "--model", str(model))
    assert answer.out.splitlines() == [
        f"written   {folder / 'mine.yaml'}",
        "extends   cpu-minilm",
        f"model     {model}",
        "then      qlaunch profiles edit mine; qlaunch plan mine; qlaunch up mine",
    ]

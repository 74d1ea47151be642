"""Users without a home, homes that cannot be written, streams that are closed."""

from __future__ import annotations

import errno
import os
import pwd
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import paths
from launcher.errors import QlaunchError
from launcher.model import hub, hub_cache
from launcher.model.source import parse_source

ROOT = Path(__file__).parents[2]
QLAUNCH = [sys.executable, "-P", "-m", "launcher"]


def run(
    env: dict[str, str], *words: str, before: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[bytes]:
    whole = {k: v for k, v in os.environ.items() if k not in ("QLAUNCH_HOME", "HOME")}
    whole = {k: v for k, v in whole.items() if not k.startswith("XDG_")} | env
    whole["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [*before, *QLAUNCH, *words], env=whole, cwd="/", capture_output=True, check=False
    )


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", missing)
    for name in ("QLAUNCH_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_no_home_is_one_sentence_that_names_the_way_out(
    no_account: None, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    if home is not None:
        monkeypatch.setenv("HOME", home)
    with pytest.raises(QlaunchError, match="has no home folder") as caught:
        paths.dirs()
    assert caught.value.code == "no_home"
    assert "QLAUNCH_HOME" in (caught.value.fix or "")
    monkeypatch.setenv("QLAUNCH_HOME", "/srv/q")
    assert paths.dirs().state == Path("/srv/q/state")


def test_a_home_of_ours_by_tilde_needs_a_home(
    no_account: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLAUNCH_HOME", "~/q")
    with pytest.raises(QlaunchError, match="has no home folder"):
        paths.dirs()


def test_hubs_cache_in_our_folder_for_a_user_without_a_home(
    no_account: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
    for name in ("HF_HOME", "MODELSCOPE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    hub_cache.spare_caches()
    assert os.environ["HF_HOME"] == str(tmp_path / "cache/huggingface")
    assert os.environ["MODELSCOPE_CACHE"] == str(tmp_path / "cache/modelscope")


def test_a_time_limit_of_the_hubs_client_that_is_no_number_is_not_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`model pull`: unexpected ValueError in _as_int, at the import of huggingface_hub."""
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "abc")
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "30")
    hub_cache.spare_caches()
    assert "HF_HUB_ETAG_TIMEOUT" not in os.environ
    assert os.environ["HF_HUB_DOWNLOAD_TIMEOUT"] == "30"


def test_a_hubs_unknown_host_is_no_error_of_a_folder() -> None:
    source = parse_source("hf:a/b")
    for error, code in (
        (socket.gaierror(-2, "Name or service not known"), "dns_failed"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "connection_failed"),
        (PermissionError(errno.EPERM, "Operation not permitted"), "connection_failed"),
    ):
        assert hub._explain(source, error, False).code == code
    full = OSError(errno.EACCES, "Permission denied", "/models")
    assert hub._explain(source, full, False).code == "models_dir_unusable"


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, setpriv")
def test_a_uid_without_an_account_reads_and_is_told_what_to_set(tmp_path: Path) -> None:
    if not os.access(sys.executable, os.X_OK) or _hidden(Path(sys.executable).resolve()):
        pytest.skip("this Python lies in a folder that other users may not look into")
    become = ("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups")
    done = run({}, "ps", before=become)
    assert (done.returncode, b"has no home folder" in done.stderr) == (1, True)
    done = run({"HOME": "/nonexistent"}, "ps", before=become)
    assert (done.returncode, done.stdout) == (0, b"no services are running\n")


def _hidden(path: Path) -> bool:
    return any(not parent.stat().st_mode & 0o001 for parent in [*path.parents, *ROOT.parents])


def in_read_only(folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command with `folder` mounted read-only, in a mount namespace of its own."""
    unshare = shutil.which("unshare")
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare")
    before = (unshare, "-m", "sh", "-c", script, str(folder))
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    return run({"QLAUNCH_HOME": str(folder)}, *words, before=before)


def test_commands_that_read_work_in_a_read_only_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for words in (["ps"], ["runs", "list"], ["engine", "list"], ["profiles", "list"]):
        done = in_read_only(home, *words)
        assert (done.returncode, done.stderr) == (0, b""), words


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.EROFS, "make its disk writable"),
        (errno.ENOSPC, "free space"),
        (errno.EPERM, "remove"),
    ],
)
@pytest.mark.parametrize("call", ["mkdir", "chmod"])
def test_a_folder_that_cannot_be_made_private_is_one_sentence_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, fix: str
) -> None:
    """A mode that could not be changed was a traceback; a read-only disk was to be removed."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o755)

    def refuse(self: Path, *_args: object, **_more: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(QlaunchError, match=os.strerror(number)) as caught:
        paths.private_dir(folder)
    assert (caught.value.fix or "").startswith(fix)


def test_a_command_that_writes_names_the_read_only_folder(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    done = in_read_only(home, "engine", "install", "cpu")
    assert done.returncode == 5
    assert b"Read-only file system" in done.stderr
    assert str(home).encode() in done.stderr
    assert b"QLAUNCH_HOME" in done.stderr


@pytest.mark.parametrize("name", ["with blanks", "quo'te\"s", "new\nline", "模型 é", "x" * 200])
def test_a_home_with_an_odd_name_is_a_home(tmp_path: Path, name: str) -> None:
    done = run({"QLAUNCH_HOME": str(tmp_path / name)}, "ps")
    assert (done.returncode, done.stdout) == (0, b"no services are running\n")
    done = run({"QLAUNCH_HOME": str(tmp_path / name)}, "runs", "show", "none", "--json")
    assert b"Traceback" not in done.stderr
    assert done.stdout.startswith(b"{")


@pytest.mark.parametrize(("name", "exit_code"), [(b"m\xff\xe9", 2), ("模型 é".encode(), 2)])
def test_a_model_folder_is_found_by_its_bytes_or_refused_in_a_sentence(
    tmp_path: Path, name: bytes, exit_code: int
) -> None:
    folder = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))  # noqa: PTH118 - bytes
    folder.mkdir()
    for locale in ("C", "C.UTF-8"):
        env = {"QLAUNCH_HOME": str(tmp_path / "home"), "LC_ALL": locale}
        done = run(env, "model", "inspect", str(folder), "--json")
        assert done.returncode == exit_code
        errors = done.stdout.decode("utf-8")
        assert ("is not UTF-8" in errors) == (name[0] == ord("m"))
        assert "unexpected" not in errors
    done = run({"QLAUNCH_HOME": os.fsdecode(os.fsencode(tmp_path) + b"/h\xff")}, "ps")
    assert (done.returncode, b"QLAUNCH_HOME is not UTF-8" in done.stderr) == (2, True)


CLOSED = {
    "stdin": ("<&-", 3),
    "stdout": (">&-", 3),
    "stderr": ("2>&-", 3),
    "all": ("<&- >&- 2>&-", 3),
    "a reader that leaves": ("2>&1 | true; exit ${PIPESTATUS[0]}", 3),
}


@pytest.mark.parametrize(("how", "code"), CLOSED.values(), ids=CLOSED)
def test_closed_streams_leave_the_exit_code(tmp_path: Path, how: str, code: int) -> None:
    before = ("bash", "-c", f'"$@" {how}', "bash")
    done = run({"QLAUNCH_HOME": str(tmp_path), "HOME": str(tmp_path)}, "status", "x", before=before)
    assert done.returncode == code
    assert b"Traceback" not in done.stdout + done.stderr


def test_a_full_disk_behind_stdout_is_one_sentence(tmp_path: Path) -> None:
    for words in ("ps", "--help", "up --help", "completion bash"):
        before = ("bash", "-c", '"$@" >/dev/full', "bash")
        done = run({"QLAUNCH_HOME": str(tmp_path)}, *words.split(), before=before)
        assert done.returncode == 1, words
        assert b"No space left on device" in done.stderr
        assert b"Traceback" not in done.stderr
        assert b"unexpected" not in done.stderr


@pytest.mark.parametrize("mask", ["000", "077", "777"])
def test_state_is_private_whatever_the_umask(tmp_path: Path, mask: str) -> None:
    code = (
        f"import os; os.umask(0o{mask}); from launcher.service import store;"
        "w = store.folder('one', create=True); l = store.Lock(w.lock); assert l.acquire();"
        "print(oct(w.path.stat().st_mode & 0o777), oct(w.path.parent.stat().st_mode & 0o777))"
    )
    env = os.environ | {"QLAUNCH_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
    if mask == "777":
        assert done.returncode in (0, 1)
    else:
        assert done.stdout.split() == [b"0o700", b"0o700"]


def test_a_home_that_is_a_file_or_a_link_to_nowhere_is_said_before_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`profiles new` said: cannot be written: File exists; and `ps`: no services are running."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    texts = {
        "file": f"QLAUNCH_HOME, {tmp_path}/file, is not a folder",
        "link": f"QLAUNCH_HOME, {tmp_path}/link, is a link to nowhere, which does not exist",
    }
    for name, text in texts.items():
        monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path / name))
        with pytest.raises(QlaunchError) as caught:
            paths.dirs()
        assert (caught.value.code, caught.value.message) == ("bad_home", text)
    (tmp_path / "nowhere").mkdir()
    assert paths.dirs().state == tmp_path / "link" / "state"
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path / "not yet"))
    assert paths.dirs().data == tmp_path / "not yet" / "data"

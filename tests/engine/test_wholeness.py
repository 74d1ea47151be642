"""What is missing from an environment, told by its folders."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.engine import releases
from launcher.engine.environments import wholeness
from launcher.engine.release import Engine, Release
from tests.samples import engine, packages

CPU = releases.release("cpu")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The packages of a whole environment."""
    return packages(tmp_path, CPU)


def missing(place: Path, *, current: bool = True) -> str | None:
    return wholeness.missing(engine(root=place.parents[2]), current=current)


def record(place: Path, *lines: str) -> None:
    """Have transformers consist of this."""
    (info,) = place.glob("transformers-*.dist-info")
    (info / "RECORD").write_text("".join(f"{line}\n" for line in lines))


def test_a_whole_one(place: Path) -> None:
    assert missing(place) is None


def without_module(place: Path) -> None:
    shutil.rmtree(place / "transformers")


def without_notes(place: Path) -> None:
    (info,) = place.glob("transformers-*.dist-info")
    shutil.rmtree(info)


def without_list(place: Path) -> None:
    (info,) = place.glob("transformers-*.dist-info")
    (info / "RECORD").unlink()


def as_an_interrupted_pip_leaves_it(place: Path) -> None:
    for path in [*place.glob("transformers*")]:
        path.rename(place / f"~{path.name[1:]}")


def without_an_inner_folder(place: Path) -> None:
    record(place, "transformers/__init__.py,,", "transformers/models/bert/modeling_bert.py,,")


def without_a_single_module(place: Path) -> None:
    record(place, "six.py,sha256=x,1")


def without_a_quoted_one(place: Path) -> None:
    record(place, '"transformers/models/a,b.json",sha256=x,1')


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (without_module, "/transformers is gone, which is part of transformers"),
        (without_notes, "the package transformers is gone from"),
        (without_list, "RECORD: No such file or directory"),
        (as_an_interrupted_pip_leaves_it, "the package transformers is gone from"),
        (without_an_inner_folder, "/transformers/models is gone, which is part of transformers"),
        (without_a_single_module, "/six.py is gone, which is part of transformers"),
        (without_a_quoted_one, "/transformers/models is gone, which is part of transformers"),
        (shutil.rmtree, "site-packages: No such file or directory"),
    ],
)
def test_what_was_taken_out_is_named(harm: Callable[[Path], None], said: str, place: Path) -> None:
    harm(place)
    assert said in (missing(place) or "")


@pytest.mark.parametrize(
    "line",
    [
        "../../../bin/transformers,sha256=x,1",
        "transformers/__pycache__/utils.cpython-311.pyc,,",
        "__pycache__/six.cpython-311.pyc,,",
        "transformers/one_file_less.py,sha256=x,1",
    ],
)
def test_what_may_be_elsewhere_or_comes_again_is_not_missed(line: str, place: Path) -> None:
    record(place, line)
    assert missing(place) is None


def test_pip_itself_is_not_needed_to_serve(place: Path) -> None:
    (place / "pip-99.dist-info").mkdir()
    assert missing(place) is None


def test_what_was_added_by_hand_is_no_harm(place: Path) -> None:
    (place / "mine").mkdir()
    (place / "mine.pth").touch()
    (place / "~rotobuf").mkdir()
    assert missing(place) is None


def test_an_older_list_of_packages_is_not_held_to_todays(place: Path) -> None:
    without_notes(place)
    assert missing(place, current=False) is None
    (torch,) = place.glob("torch-*.dist-info")
    shutil.rmtree(torch)
    assert "the package torch is gone" in (missing(place, current=False) or "")


def test_a_users_own_environment_is_not_judged() -> None:
    own = Engine(release=CPU, python=Path("/mine/bin/python"), version=CPU.version, root=None)
    assert wholeness.missing(own, current=True) is None


@pytest.mark.parametrize("release", releases.releases().values(), ids=lambda one: str(one.name))
def test_every_release_can_be_whole(release: Release, tmp_path: Path) -> None:
    place = packages(tmp_path, release)
    found = engine(release.name, root=tmp_path)
    assert wholeness.missing(found, current=True) is None
    for name in os.listdir(place):  # noqa: PTH208 - names only
        if name.startswith(("sglang-", "torch-")) and name.endswith(".dist-info"):
            shutil.rmtree(place / name)
            assert wholeness.missing(found, current=True) is not None
            break

"""`cache:` of a profile: what it stands for, and what is refused with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.config.loading import load_profile
from launcher.config.service_cache import ServiceCache
from launcher.config.settings import Resolved, UserConfig, resolve
from launcher.errors import QlaunchError

MINIMAL = """hardware:
  device: cpu
engine: cpu
model: all-minilm-l6-v2
"""


def resolved(folder: Path, cache: Any, name: str = "mine", text: str = MINIMAL) -> Resolved:
    """The settings of a profile with this `cache`, on its fifth line and after."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(text + yaml.safe_dump({"cache": cache}, sort_keys=False))
    return resolve(load_profile(name, folder), {}, {}, UserConfig())


def cache_of(folder: Path, cache: Any) -> ServiceCache:
    found = resolved(folder, cache).cache
    assert found is not None
    return found


@pytest.mark.parametrize("cache", [False, None])
def test_there_is_none_unless_asked_for(tmp_path: Path, cache: Any) -> None:
    if cache is None:
        (tmp_path / "mine.yaml").write_text(MINIMAL)
        settings = resolve(load_profile("mine", tmp_path), {}, {}, UserConfig())
    else:
        settings = resolved(tmp_path, cache)
    assert settings.cache is None
    assert "cache" not in settings.sources


def test_true_is_a_file_of_ours(tmp_path: Path) -> None:
    settings = resolved(tmp_path, True)
    assert settings.cache == ServiceCache(backend="embedded", url=None)
    assert settings.sources["cache"] == f"profile {tmp_path / 'mine.yaml'}:5"


def test_no_shipped_profile_has_a_cache(tmp_path: Path) -> None:
    from launcher.config.loading import list_profiles

    shipped = [ref.profile for ref in list_profiles(tmp_path)]
    assert shipped
    assert all(profile is not None and profile.cache is False for profile in shipped)


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("embedded", None),
        ("redis", "redis://127.0.0.1:6379/0"),
        ("memcached", "memcached://127.0.0.1:11211"),
    ],
)
def test_the_name_of_a_backend_is_enough(tmp_path: Path, name: str, url: str | None) -> None:
    found = cache_of(tmp_path, name)
    assert (found.backend, found.url) == (name, url)


def test_everything_at_once(tmp_path: Path) -> None:
    (tmp_path / "pass").touch()
    found = cache_of(
        tmp_path,
        {
            "backend": "redis",
            "url": "rediss://cache:6380/2",
            "ttl": "12h",
            "dtype": "float16",
            "memory": "256MiB",
            "wait_ms": 2.5,
            "idle_stop_s": 600,
            "password_file": "pass",
            "key_file": "../keys/cache.key",
        },
    )
    assert found == ServiceCache(
        backend="redis",
        url="rediss://cache:6380/2",
        ttl_s=43_200,
        dtype="float16",
        memory_bytes=256 << 20,
        wait_ms=2.5,
        idle_stop_s=600.0,
        password_file=str(tmp_path / "pass"),
        key_file=str(tmp_path.parent / "keys" / "cache.key"),
    )


def test_sentinels_may_have_a_password_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    found = cache_of(
        tmp_path,
        {
            "backend": "redis",
            "url": "redis+sentinel://h:26379/m",
            "sentinel_password_file": "theirs",
        },
    )
    assert found is not None
    assert found.sentinel_password_file == str(tmp_path / "theirs")


@pytest.mark.parametrize(
    ("ttl", "seconds"), [(60, 60), ("90s", 90), ("30m", 1800), ("7d", 604_800), (" 2 h ", 7200)]
)
def test_times(tmp_path: Path, ttl: int | str, seconds: int) -> None:
    assert cache_of(tmp_path, {"ttl": ttl}).ttl_s == seconds


@pytest.mark.parametrize("url", ["v.db", "./v.db", "sqlite:v.db", "sqlite://v.db"])
def test_a_files_path_is_meant_from_the_profiles_folder(tmp_path: Path, url: str) -> None:
    assert cache_of(tmp_path, {"url": url}).url == str(tmp_path / "v.db")


def test_a_path_in_a_parent_is_meant_from_the_parents_folder(tmp_path: Path) -> None:
    resolved(tmp_path / "base", {"url": "v.db", "ttl": "7d"}, name="parent")
    child = "extends: ../base/parent.yaml\n"
    found = resolved(tmp_path / "own", {"ttl": "1d"}, text=child).cache
    assert found is not None
    assert (found.url, found.ttl_s) == (str(tmp_path / "base" / "v.db"), 86_400)


def test_a_child_may_take_the_cache_out(tmp_path: Path) -> None:
    resolved(tmp_path, {"ttl": "7d"}, name="parent")
    assert resolved(tmp_path, False, text="extends: parent\n").cache is None


REFUSED: dict[str, tuple[Any, int, str]] = {
    "an unknown word": ("reddis", 5, "did you mean `redis`"),
    "a number": (3, 5, "`cache` must be true or false"),
    "an unknown key": ({"dtyp": "float16"}, 6, "unknown key `dtyp` in `cache`"),
    "an unknown dtype": ({"dtype": "int8"}, 6, "`cache.dtype` must be one of"),
    "no time": ({"ttl": "7 weeks"}, 6, "`cache.ttl`"),
    "time 0": ({"ttl": "0m"}, 6, "`cache.ttl`"),
    "an unclear size": ({"max_bytes": "2G"}, 6, "`cache.max_bytes`: `2G` is not a size"),
    "a small size": ({"max_bytes": "1MiB"}, 6, "33554432 are the least"),
    "a bound of a server": ({"backend": "redis", "max_bytes": "2GiB"}, 7, "a bound of its own"),
    "an unclear memory": ({"memory": "much"}, 6, "`cache.memory`"),
    "no wait": ({"wait_ms": 0}, 6, "`cache.wait_ms` must be a number above 0"),
    "a redis without its name": ({"url": "redis://h:1/0"}, 6, "not an address of `embedded`"),
    "another kind of URL": (
        {"backend": "redis", "url": "http://h:1"},
        7,
        "not an address of `redis`",
    ),
    "no master": (
        {"backend": "redis", "url": "redis+sentinel://h:26379"},
        7,
        "names no master",
    ),
    "no time to be idle": ({"idle_stop_s": 0}, 6, "idle_stop_s"),
    "no host": ({"backend": "redis", "url": "redis:///0"}, 7, "names no host"),
    "a bad port": ({"backend": "memcached", "url": "memcached://h:99999"}, 7, "names no host"),
    "the address of a web page": ({"url": "http://x"}, 6, "not an address of `embedded`"),
    "a file at a host and a port": (
        {"url": "sqlite://localhost:5"},
        6,
        "names a host and a port; a file has neither",
    ),
    "an empty URL": ({"url": " "}, 6, "`cache.url` is empty"),
    "a password for a file": ({"password_file": "p"}, 6, "embedded takes no password"),
    "a sentinels' password without sentinels": (
        {"backend": "redis", "sentinel_password_file": "p"},
        7,
        "`cache.url` names none",
    ),
    "an empty path": ({"key_file": " "}, 6, "`cache.key_file` is not a path"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, what: str) -> None:
    cache, line, words = REFUSED[what]
    with pytest.raises(QlaunchError) as caught:
        resolved(tmp_path, cache)
    assert (caught.value.code, caught.value.exit_code) == ("profile_invalid", 2)
    assert f"profile {tmp_path / 'mine.yaml'}:{line}: " in caught.value.message
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("cache", "fix"),
    [
        ({"url": "http://x"}, "write the path of a file, such as vectors.db"),
        ({"url": "sqlite://h:5/"}, "write the path of a file, such as vectors.db"),
        ({"ttl": 0}, "write a whole number of seconds, or such as 30m, 12h, 7d"),
        ({"max_bytes": -1}, "write a whole number of bytes, or a size such as 4GiB"),
        ({"memory": -1}, "write a whole number of bytes, or a size such as 64MiB"),
    ],
)
def test_the_advice_is_one_that_is_taken(tmp_path: Path, cache: Any, fix: str) -> None:
    """It was to quote the number, or to write an address: both were refused, or made a file
    called `localhost:5`."""
    with pytest.raises(QlaunchError) as caught:
        resolved(tmp_path, cache)
    assert fix in (caught.value.fix or "")


@pytest.mark.parametrize(
    "url", ["redis://:hidden@h:1/0", "redis://u:hidden@h:1/0", "redis://h:1/0?password=hidden"]
)
def test_a_password_in_a_profile_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    with pytest.raises(QlaunchError) as caught:
        resolved(tmp_path, {"backend": "redis", "url": url})
    assert "secrets do not belong in a profile" in caught.value.message
    assert "hidden" not in caught.value.message
    with pytest.raises(QlaunchError) as caught:
        resolved(tmp_path, {"backend": "memcached", "url": url.partition("?")[0]})
    assert "hidden" not in caught.value.message


def test_where_vectors_are_kept_is_told_without_a_user() -> None:
    cache = ServiceCache(backend="redis", url="redis://someone@host:6379/0")
    assert cache.place == "redis://host:6379/0"

"""Addresses of Redis: what is understood, and what is refused in words that quote nothing."""

from __future__ import annotations

import pytest

from launcher.network.redis_address import RedisAddress, parse

ADDRESSES = {
    "redis://cache": RedisAddress(kind="server", scheme="redis", hosts=(("cache", 6379),)),
    "rediss://u:p%40w@cache:6380/2": RedisAddress(
        kind="server",
        scheme="rediss",
        hosts=(("cache", 6380),),
        database=2,
        username="u",
        password="p@w",
    ),
    "redis+sentinel://a,b:26380,[::1]:5/mymaster": RedisAddress(
        kind="sentinel",
        scheme="redis+sentinel",
        hosts=(("a", 26379), ("b", 26380), ("::1", 5)),
        master="mymaster",
    ),
    "valkeys+sentinel://:secret@a/my.master-1/3": RedisAddress(
        kind="sentinel",
        scheme="valkeys+sentinel",
        hosts=(("a", 26379),),
        master="my.master-1",
        database=3,
        password="secret",
    ),
    "rediss+cluster://a,b:7000/": RedisAddress(
        kind="cluster", scheme="rediss+cluster", hosts=(("a", 6379), ("b", 7000))
    ),
}


@pytest.mark.parametrize("url", ADDRESSES)
def test_an_address_is_read(url: str) -> None:
    assert parse(url) == ADDRESSES[url]
    assert parse(url).tls == url.startswith(("rediss", "valkeys"))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://u:secret@cache:1/2", "redis://cache:1/2"),
        ("redis+sentinel://u:secret@[::1],b/m/1", "redis+sentinel://[::1]:26379,b:26379/m/1"),
        ("redis+cluster://:secret@a", "redis+cluster://a:6379"),
    ],
)
def test_its_name_for_people_has_no_secret(url: str, name: str) -> None:
    assert parse(url).name == name


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://a", "no.*|is not an address"),
        ("redis+proxy://a", "is not an address"),
        ("redis:///0", "names no host"),
        ("redis://a:0", "names no host"),
        ("redis://a:99999", "names no host"),
        ("redis://a b", "names no host"),
        ("redis://a,b", "names several servers"),
        ("redis://a/b", "names no database"),
        ("redis://a/0/1", "names no database"),
        ("redis+sentinel://a", "names no master"),
        ("redis+sentinel://a/", "names no master"),
        ("redis+sentinel://a/m m", "names no master"),
        ("redis+sentinel://a,/m", "names no host"),
        ("redis+sentinel://a/m/x", "names no database"),
        ("redis+cluster://a/1", "names a database"),
        ("redis+cluster://a?x=1", "takes no options"),
    ],
)
def test_what_is_wrong_is_told(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse(url)

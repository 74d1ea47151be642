"""Rate limits by key, other names of models."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.app.gateway import parse_aliases, parse_checkpoints
from launcher.errors import QlaunchError
from launcher.gateway.access import Keys
from launcher.gateway.problems import RequestError
from launcher.gateway.rates import Allowance, Client, Rates
from launcher.gateway.run import UrlGroup
from launcher.gateway.server import ServerSettings
from tests.gateway.harness import Bench, Memory, run
from tests.gateway.scripted_server import truth


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def wait_of(rates: Rates, client: Client, texts: int) -> int | None:
    """Seconds that a refusal names; 0 where the request is let in, None where it never will be."""
    refusal = None
    try:
        rates.admit(client, texts)
    except RequestError as refused:
        refusal = refused
    if refusal is None:
        return 0
    assert refusal.status == (400 if refusal.retry_after is None else 429)
    return refusal.retry_after


def test_texts_a_minute() -> None:
    clock = Clock()
    rates = Rates(Allowance(texts=60), clock)
    one, other = Client(id=b"1"), Client(id=b"2")
    assert wait_of(rates, one, 50) == 0
    assert wait_of(rates, one, 20) == 10
    assert wait_of(rates, one, 10) == 0  # a refusal takes nothing
    assert wait_of(rates, other, 60) == 0
    clock.now += 19.5
    assert wait_of(rates, one, 20) == 1
    clock.now += 0.5
    assert wait_of(rates, one, 20) == 0
    clock.now += 3600
    assert wait_of(rates, one, 60) == 0  # no more than a minute's worth is saved
    assert wait_of(rates, one, 1) == 1
    assert wait_of(rates, one, 61) is None


def test_tokens_a_minute_are_owed() -> None:
    clock = Clock()
    rates = Rates(clock=clock)
    client = Client(id=b"1", allowance=Allowance(tokens=600))
    assert wait_of(rates, client, 2048) == 0
    rates.charge(client, 1200)
    assert wait_of(rates, client, 1) == 61  # 600 are owed, and one must be there
    clock.now += 60.1
    assert wait_of(rates, client, 1) == 0
    assert wait_of(rates, Client(id=b"2"), 10**6) == 0


def test_a_bound_that_is_changed_counts_at_once() -> None:
    rates = Rates(Allowance(texts=10), Clock())
    assert wait_of(rates, Client(id=b"1"), 10) == 0
    assert wait_of(rates, Client(id=b"1", allowance=Allowance(texts=30)), 20) == 0
    assert wait_of(rates, Client(id=b"1", allowance=Allowance(texts=30)), 20) == 20


def test_by_key_over_http(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("small-key texts=3\nfree-key-1\ntoken-key tokens=5  \n")

    async def work() -> None:
        async with Bench(Memory(), keys=Keys(file)) as bench:
            small = {"Authorization": "Bearer small-key"}
            assert (await bench.ask(["a", "b"], headers=small)).status == 200
            await bench.kept()
            refused = await bench.ask(["a", "b"], headers=small)  # hits count too
            assert (refused.status, refused.body["error"]["code"]) == (429, "rate_limit_exceeded")
            assert 1 <= int(refused.headers["Retry-After"]) <= 20
            assert "3 inputs a minute" in refused.body["error"]["message"]
            never = await bench.ask(["a"] * 4, headers=small)
            assert (never.status, never.body["error"]["code"]) == (400, "over_rate_limit")
            free = {"Authorization": "Bearer free-key-1"}
            assert (await bench.ask(["a"] * 9, headers=free)).status == 200

            tokens = {"Authorization": "Bearer token-key"}
            assert (await bench.ask("123456789", headers=tokens)).status == 200
            refused = await bench.ask("b", headers=tokens)
            assert refused.status == 429
            assert 48 <= int(refused.headers["Retry-After"]) <= 60
            assert (await bench.get("v1/models", tokens))[0] == 200

    run(work())


def test_without_keys_all_clients_are_one() -> None:
    async def work() -> None:
        settings = ServerSettings(allowance=Allowance(texts=2))
        async with Bench(Memory(), settings=settings) as bench:
            assert (await bench.ask(["a", "b"])).status == 200
            assert (await bench.ask(["a"])).status == 429
            status, page = await bench.get("metrics")
            assert status == 200
            assert 'qlaunch_gateway_refused_total{code="rate_limit_exceeded"} 1.0' in page

    run(work())


@pytest.mark.parametrize(
    "line",
    ["good-key-1 texts=0", "good-key-1 texts=x", "good-key-1 more=1", "good-key-1 and another"],
)
def test_a_line_that_is_not_understood_names_its_number_and_not_the_key(
    line: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n\n{line}\n")
    with pytest.raises(QlaunchError) as caught:
        Keys(file)
    assert "line 3" in str(caught.value)
    assert "good-key-1" not in str(caught.value)


def test_other_names_of_a_model() -> None:
    async def work() -> None:
        settings = ServerSettings(aliases={"text-embedding-3-small": "m", "lost": "gone"})
        async with Bench(Memory(), settings=settings) as bench:
            reply = await bench.post({"model": "text-embedding-3-small", "input": "x"})
            assert reply.vectors == [truth("x")]
            assert reply.body["model"] == "text-embedding-3-small"
            assert bench.server.calls[0]["model"] == "m"
            await bench.kept()
            assert (await bench.ask("x")).hits == 1
            status, page = await bench.get("v1/models")
            assert (status, "text-embedding-3-small" in page, "lost" in page) == (200, True, False)
            lost = await bench.post({"model": "lost", "input": "x"})
            assert lost.status == 404
            assert "text-embedding-3-small" in lost.body["error"]["message"]

    run(work())


NAMED = (UrlGroup(name="m", urls=("http://h/v1",)),)
OPEN = (UrlGroup(name=None, urls=("http://h/v1",)),)


@pytest.mark.parametrize("words", [("m=m",), ("a=x",), ("a=m", "a=m"), ("a",), ("=m",), ("a=",)])
def test_aliases_that_cannot_be_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(QlaunchError) as caught:
        parse_aliases(words, (), NAMED)
    assert caught.value.code == "bad_target"


def test_aliases_of_models_that_are_found_later_are_taken() -> None:
    assert parse_aliases(("a=x", "b=x"), (), OPEN) == {"a": "x", "b": "x"}
    assert parse_aliases(("a=m",), (), NAMED) == {"a": "m"}


@pytest.mark.parametrize("words", [("x=minilm",), ("m",), ("m=/absent/folder",)])
def test_checkpoints_that_cannot_be_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(QlaunchError) as caught:
        parse_checkpoints(words, NAMED)
    assert caught.value.exit_code == 2

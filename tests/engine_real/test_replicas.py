"""Two replicas of MiniLM as one service: five starts of an engine, and everything done to them."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import openai

from launcher.linux import processes as procs
from tests.engine_real.qlaunch import Home, alive, assert_port_is_free, eventually, tree
from tests.service.sets import Load

TEXTS = ("How are you today", "Guten Morgen, wie geht es Ihnen?", "def f(x): return x", "测试 🙂")


def vectors(endpoint: str, *texts: str) -> list[list[float]]:
    with openai.OpenAI(base_url=endpoint, api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="all-minilm-l6-v2", input=list(texts))
        return [item.embedding for item in answer.data]


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def serving(home: Home, count: int) -> dict[str, Any]:
    """The status once so many replicas serve."""

    def look() -> dict[str, Any] | None:
        data = home.run("status", "two", "--json").data
        return data if (data["state"], data["serving"]) == ("ready", count) else None

    found: dict[str, Any] = eventually(look)
    return found


def pids(data: dict[str, Any]) -> list[int]:
    return [each["pid"] for each in data["replicas"]]


def test_two_replicas_are_one_service(new_home: Callable[[str], Home]) -> None:
    home = new_home("replicas")
    # One thread each, whatever their number: a change of it then starts nobody else again.
    up = home.run(
        *("up", "cpu-minilm", "--name", "two", "--replicas", "2", "--threads", "1"),
        *("--port", "0", "--json"),
    )
    data = up.ok().data
    assert (data["state"], data["serving"]) == ("ready", 2)
    assert up.checks["parity"]
    assert data["template_pid"]  # both are forked from it
    assert -0.05 < data["memory"]["error"]["ram"] < 0.3

    # Each gives the checkpoint's own vectors, and so does the front.
    smoke = home.run("smoke", "two", "--json").ok().data
    assert smoke["replicas"] == {"two.1": True, "two.2": True}
    front = vectors(data["endpoint"], *TEXTS)
    for each in data["replicas"]:
        for ours, theirs in zip(front, vectors(each["endpoint"], *TEXTS), strict=True):
            assert cosine(ours, theirs) > 0.9999

    with Load(data["endpoint"], clients=2, model="all-minilm-l6-v2") as load:
        killed = procs.process_id(data["replicas"][0]["pid"])
        assert killed is not None
        assert procs.send(killed, signal.SIGKILL)
        eventually(lambda: home.state("two").serving == 1)
        back = serving(home, 2)
        assert pids(back)[0] != killed.pid
        assert pids(back)[1] == pids(data)[1]
        load.more()

        one = home.run("scale", "two", "1", "--json").ok().data
        assert pids(one) == pids(back)[:1]
        load.more()
        again = home.run("scale", "two", "2", "--json").ok().data
        assert (again["serving"], pids(again)[0]) == (2, pids(one)[0])

        restarted = home.run("restart", "two", "--json").ok().data
        assert restarted["rolling"]
        assert restarted["endpoint"] == data["endpoint"]
        assert not {*pids(restarted)} & {*pids(again)}
        load.more()
    assert load.failed == []
    first = max(load.vectors)
    assert all(cosine(list(first), list(other)) > 0.999 for other in load.vectors)

    members = tree(restarted["supervisor_pid"])
    assert {*pids(restarted), restarted["gateway"]["pid"]} <= {each.pid for each in members}
    down = home.run("down", "two", "--json").ok().data["services"][0]
    assert (down["left"], down["forced"]) == ([], False)
    assert alive(members) == []
    assert_port_is_free(data["endpoint"])

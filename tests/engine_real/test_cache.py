"""MiniLM with a cache at its own address: one engine start, and every way in which a part dies."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

from launcher.linux import processes as procs
from tests.engine_real.qlaunch import Home, alive, assert_port_is_free, eventually, texts_of, tree

KEY = "canary-7d20b1e6c4f3"
PROFILE = """extends: cpu-minilm
port: 0
cache:
  wait_ms: 1000
restart:
  max_attempts: 5
"""


def vectors(client: openai.OpenAI, *texts: str) -> tuple[list[list[float]], int]:
    """Vectors, and how many came from the cache; -1 where nobody says."""
    raw = client.embeddings.with_raw_response.create(model="all-minilm-l6-v2", input=list(texts))
    hits = int(raw.headers.get("X-Cache-Hits", "-1"))
    return [item.embedding for item in raw.parse().data], hits


def ready_again(home: Home, pid: int) -> dict[str, Any]:
    """The status once another gateway than `pid` was proved."""

    def look() -> dict[str, Any] | None:
        data = home.run("status", "cached", "--json").data
        now = data["gateway"]["pid"]
        return data if data["state"] == "ready" and now not in {None, pid} else None

    found: dict[str, Any] = eventually(look)
    return found


def end(pid: int) -> None:
    process = procs.process_id(pid)
    assert process is not None
    assert procs.send(process, signal.SIGKILL)


def test_a_service_with_a_cache(new_home: Callable[[str], Home], tmp_path: Path) -> None:
    home = new_home("cached")
    key_file = home.root / "key"
    key_file.touch(mode=0o600)
    key_file.write_text(f"{KEY}\n", encoding="ascii")
    profiles = home.root / "config" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "cached.yaml").write_text(PROFILE)
    up = home.run("up", "cached", "--api-key-file", str(key_file), "--json").ok().data
    assert up["state"] == "ready"
    assert up["engine_endpoint"] != up["endpoint"]
    front = openai.OpenAI(base_url=up["endpoint"], api_key=KEY, max_retries=0)
    engine = openai.OpenAI(base_url=up["engine_endpoint"], api_key=KEY, max_retries=0)
    with front, engine:
        first, hits = vectors(front, "a cache", "of vectors", "a cache")
        assert hits == 0
        assert first[0] == first[2]
        assert vectors(front, "of vectors", "a cache") == ([first[1], first[0]], 2)
        direct, nobody = vectors(engine, "a cache", "of vectors")
        assert nobody == -1
        for ours, theirs in zip(first, direct, strict=False):
            assert sum(a * b for a, b in zip(ours, theirs, strict=True)) > 0.9999

        # What proves and measures asks the engine; everyone else the service.
        smoke = home.run("smoke", "cached", "--json").ok().data
        assert smoke["endpoint"] == up["engine_endpoint"]
        texts = tmp_path / "texts.txt"
        texts.write_text("a cache\nof vectors\nand a text that is new\n")
        out = tmp_path / "out.jsonl"
        home.run("embed", str(texts), "-o", str(out), "--service", "cached", "--json").ok()
        assert len(out.read_text().splitlines()) == 3

        end(up["gateway"]["pid"])
        after = ready_again(home, up["gateway"]["pid"])
        assert after["pid"] == up["pid"]
        assert after["gateway"]["restarts"] == 1
        assert vectors(front, "a cache", "of vectors") == (first[:2], 2)

        end(after["pid"])
        last = ready_again(home, after["gateway"]["pid"])
        assert last["pid"] != up["pid"]
        assert last["endpoint"] == up["endpoint"]
        assert vectors(front, "a cache", "of vectors") == (first[:2], 2)

    members = tree(last["supervisor_pid"])
    assert last["gateway"]["pid"] in {process.pid for process in members}
    home.run("down", "cached", "--json").ok()
    assert alive(members) == []
    for endpoint in (last["endpoint"], last["engine_endpoint"]):
        assert_port_is_free(endpoint)
    record = home.run("runs", "show", up["run"], "--json").ok().data
    assert record["cache"]["restarts"] == 1
    roles = {term["process"] for term in record["plan"]["predicted"]["terms"]}
    assert "gateway" in roles
    holders = {path.name for path, found in texts_of(home.root).items() if KEY.encode() in found}
    assert holders == {"key"}

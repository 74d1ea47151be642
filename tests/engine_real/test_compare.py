"""`compare` with the real engine: one profile, few requests, the winner once more."""

from __future__ import annotations

from tests.engine_real.qlaunch import LONG_S, Home


def test_a_comparison_of_one(home: Home) -> None:
    found = home.run(
        *("compare", "cpu-minilm", "t4-fp16", "--repeats", "1", "--requests", "6"),
        *("--clients", "1,4", "--tokens", "64", "--quiet", "--json"),
        limit_s=LONG_S,
    ).ok()
    data = found.data
    minilm, t4 = data["modes"]
    assert (minilm["outcome"], t4["outcome"]) == ("measured", "cannot_run")
    assert "GPU" in t4["reason"]
    assert t4["cells"] == t4["rows"] == []
    assert [row["requests"] for row in minilm["rows"]] == [6, 6]
    for row in minilm["rows"]:
        assert row["errors"] == 0
        assert row["tokens_counted"] == 64
        assert row["embeddings_per_s"] > 0
        assert row["memory_method"]["ram"] == "pss"
    assert minilm["quality"]["cosine_min"] > 0.999
    assert minilm["quality"]["recall_at_10"] > 0.4
    assert 0.5 < minilm["predicted"]["ram_bytes"] / minilm["verified_ram_bytes"] < 2
    assert data["winner"] == "cpu-minilm"
    assert data["remeasured"]["again"] > 0
    assert len(minilm["runs"]) == 2
    assert data["complete"] is True
    # What was measured supports the profile from now on.
    evidence = home.run("plan", "cpu-minilm", "--json").ok().data["evidence"]
    assert evidence["measured"] is True
    assert evidence["run"] in minilm["runs"]
    assert evidence["comparisons"][0]["comparison"] == data["id"]
    assert home.run("ps", "--json").ok().data["services"] == []

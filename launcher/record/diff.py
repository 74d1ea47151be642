"""What differs between two run records. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from launcher.documents.run import Run

Doc = Mapping[str, Any]

LEVEL = ("loop", "clients", "batch", "tokens", "rate")
"""What two rows of `bench` must share to be held against each other."""
FIGURES = ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "embeddings_per_s", "tokens_per_s")


def diff(
    a: Run, b: Run, bench_a: Iterable[Doc] = (), bench_b: Iterable[Doc] = ()
) -> dict[str, Any]:
    """The differences of `b` from `a`.

    `argv`, `env`, `settings`, `versions` and `checks` hold only what differs. `figures` and
    `bench` hold all that either has, each `{name, a, b, ratio}`; the ratio is b / a, None where
    one of them was not measured.
    """
    one, two = msgspec.to_builtins(a), msgspec.to_builtins(b)
    plans = [doc.get("plan") or {} for doc in (one, two)]
    engines = [plan.get("engine") or {} for plan in plans]
    return {
        "a": _name(a),
        "b": _name(b),
        "argv": argv_changes(engines[0].get("argv") or (), engines[1].get("argv") or ()),
        "env": _changes(engines[0].get("env") or {}, engines[1].get("env") or {}),
        "settings": _changes(_settings(plans[0]), _settings(plans[1])),
        "versions": _changes(one["versions"], two["versions"]),
        "figures": _figures(one, two),
        "checks": _checks(one, two),
        "bench": _bench(list(bench_a), list(bench_b)),
    }


def _name(run: Run) -> dict[str, Any]:
    return {
        "run": run.run,
        "service": run.service,
        "profile": run.profile,
        "outcome": run.outcome,
        "began": run.began,
    }


def argv_changes(a: Sequence[str], b: Sequence[str]) -> list[dict[str, Any]]:
    """Word by word, in order: `{change, a, b}`; change is `replaced`, `removed` or `added`.

    An option and its value belong together: `--dtype bfloat16` against `--dtype float32` is one
    replaced option.
    """
    left, right = _options(a), _options(b)
    found = []
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind == "equal":
            continue
        gone, come = list(left[i1:i2]), list(right[j1:j2])
        names = {option[0]: option for option in come}
        for option in gone:
            other = names.pop(option[0], None)
            if other is not None:
                come.remove(other)
            found.append(_change(option, other))
        found += [_change(None, option) for option in come]
    return found


def _options(argv: Sequence[str]) -> list[tuple[str, ...]]:
    """The words of a command, an option with its values together."""
    found: list[list[str]] = []
    for word in argv:
        if word.startswith("--") or not found:
            found.append([word])
        else:
            found[-1].append(word)
    return [tuple(option) for option in found]


def _change(a: tuple[str, ...] | None, b: tuple[str, ...] | None) -> dict[str, Any]:
    kind = "replaced" if a and b else "removed" if a else "added"
    return {"change": kind, "a": " ".join(a) if a else None, "b": " ".join(b) if b else None}


def _settings(plan: Doc) -> dict[str, Any]:
    """What a plan decided beyond its command, flat."""
    flat = {
        key: plan.get(key)
        for key in ("profile", "device", "model_name", "model_path", "fingerprint", "host")
    }
    expectation = plan.get("expectation") or {}
    names = ("dtype", "pooling", "dimensions", "context_length", "max_running_requests")
    return flat | {key: expectation.get(key) for key in names}


def _changes(a: Doc, b: Doc) -> list[dict[str, Any]]:
    names = [*a, *(name for name in b if name not in a)]
    return [
        {"name": name, "a": a.get(name), "b": b.get(name)}
        for name in names
        if a.get(name) != b.get(name)
    ]


def _figures(one: Doc, two: Doc) -> list[dict[str, Any]]:
    docs = (one, two)
    found = [
        _pair(name, *(doc["timings"].get(name) for doc in docs))
        for name in ("ready_s", "verified_s")
    ]
    for kind in ("ram", "gpu"):
        key = f"{kind}_peak_bytes"
        found.append(_pair(key, *(doc["peak"].get(key) for doc in (one, two))))
        found[-1]["methods"] = [doc["peak"]["method"].get(kind) for doc in docs]
        verified = [(doc["verified_peak"] or {}).get(key) for doc in docs]
        found.append(_pair(f"verified_{key}", *verified))
        predicted = [
            (doc["plan"].get("predicted") or {}).get(f"{kind}_bytes") for doc in (one, two)
        ]
        found.append(_pair(f"predicted_{kind}_bytes", *predicted))
    found.append(_pair("restarts", one["restarts"], two["restarts"]))
    return [figure for figure in found if figure["a"] is not None or figure["b"] is not None]


def _pair(name: str, a: float | None, b: float | None) -> dict[str, Any]:
    ratio = None if a is None or b is None or a == 0 else round(b / a, 4)
    return {"name": name, "a": a, "b": b, "ratio": ratio}


def _checks(one: Doc, two: Doc) -> list[dict[str, Any]]:
    """Checks with another result or another detail."""
    by_name = [
        {check["name"]: check for check in (doc["smoke"] or {}).get("checks") or ()}
        for doc in (one, two)
    ]
    return [
        {
            "name": change["name"],
            "a": change["a"] and {key: change["a"].get(key) for key in ("ok", "detail")},
            "b": change["b"] and {key: change["b"].get(key) for key in ("ok", "detail")},
        }
        for change in _changes(*by_name)
    ]


def _bench(a: Sequence[Doc], b: Sequence[Doc]) -> list[dict[str, Any]]:
    """Rows by level; of several of one level the last one counts."""
    rows = [{tuple(row.get(key) for key in LEVEL): row for row in each} for each in (a, b)]
    levels = [*rows[0], *(level for level in rows[1] if level not in rows[0])]
    return [
        {
            "level": dict(zip(LEVEL, level, strict=True)),
            "figures": [
                _pair(name, *(each.get(level, {}).get(name) for each in rows)) for name in FIGURES
            ],
        }
        for level in levels
    ]

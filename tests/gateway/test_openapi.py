"""The description of the interface, tried request by request: what it allows is answered."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests

from launcher.gateway.access import Keys
from launcher.gateway.cutting import Cuts
from launcher.gateway.inputs import Checkpoint, InputRules
from launcher.gateway.request import KNOWN
from launcher.gateway.server import ServerSettings
from tests.checkpoints import tokens
from tests.gateway.harness import Bench, Memory, Running, run
from tests.patience import PATIENCE_S

KEY = "schema-key-1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    tokens.wordpiece(400).save(str(made / "tokenizer.json"))
    (made / "keys").write_text(KEY)
    return made


@pytest.fixture(scope="module", params=["server", "service"])
def described(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """The description of a gateway that knows its model and asks for a key."""
    known = Checkpoint(folder=str(folder), longest=64, prompts={"query": "q: "}, of_service=True)
    bench = Bench(
        Memory(),
        checkpoint=known,
        rules=InputRules(ids_of="any"),
        keys=Keys(folder / "keys"),
        settings=ServerSettings(aliases={"other": "m"}),
    )
    with Running(bench):
        bench.sources[0].guarded = bench.sources[0].whole = request.param == "service"
        yield f"{bench.url}openapi.json"


def test_what_it_allows_is_answered_and_what_it_does_not_is_refused(
    described: str, tmp_path: Path
) -> None:
    """All checks of schemathesis, over all routes: 30 requests drawn for each, and the edges."""
    words = ["--phases", "examples,coverage,fuzzing", "--max-examples", "30", "--seed", "17"]
    words += ["--header", f"Authorization: Bearer {KEY}", "--generation-database", "none"]
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", described, "--no-color", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout, done.stdout


def test_every_route_is_described_and_nothing_else() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            status, page = await bench.get("openapi.json")
            assert status == 200
            routes = {
                (route.resource.canonical, route.method.lower())
                for route in bench.gateway.application().router.routes()
                if route.resource is not None and route.method != "HEAD"
            }
            described = {
                (path, method)
                for path, methods in json.loads(page)["paths"].items()
                for method in methods
            }
            assert described == routes

    run(work())


def test_it_says_what_is_served_now(folder: Path) -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            request = await request_of(bench)
            assert set(request["properties"]) == set(KNOWN)
            assert request["properties"]["model"]["enum"] == ["m", None]
            assert request["required"] == ["input"]
            assert request["properties"]["dimensions"]["maximum"] == 16
            # Nothing is known of the model's files: what needs them is refused.
            assert request["properties"]["truncate"]["enum"] == ["none", "NONE", False, None]
            assert request["properties"]["prompt_name"]["enum"] == [None]
            bench.sources[0].checkpoint = Checkpoint(
                folder=str(folder), longest=9, prompts={"query": "q: "}
            )
            bench.sources[0].identity = None
            request = await request_of(bench)
            assert "end" in request["properties"]["truncate"]["enum"]
            assert request["properties"]["prompt_name"]["enum"] == ["query", None]
            assert request["properties"]["dimensions"]["maximum"] > 16
            too_many = await bench.ask("x", dimensions=17)
            assert too_many.status == 200
        async with Bench(Memory()) as bench:
            reply = await bench.ask("x", dimensions=17)
            assert (reply.status, reply.body["error"]["code"]) == (400, "bad_dimensions")
            assert (await bench.ask("x", dimensions=16)).status == 200
            assert len(bench.server.calls) == 1

    run(work())


def test_of_a_service_it_says_what_its_guard_takes() -> None:
    """Any `dimensions`, field and `user` were allowed, and refused by the engine."""

    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.sources[0].guarded = bench.sources[0].whole = True
            request = await request_of(bench)
            assert request["properties"]["dimensions"] == {"enum": [16, None]}
            assert request["properties"]["user"]["type"] == ["string", "null"]
            assert request["additionalProperties"]["type"] == "null"
            bench.sources[0].whole = False
            assert (await request_of(bench))["properties"]["dimensions"]["maximum"] == 16
            bench.sources[0].cuts = Cuts(normalize=True, sizes=frozenset({4, 8}))
            request = await request_of(bench)
            assert request["properties"]["dimensions"] == {"enum": [4, 8, 16, None]}

    run(work())


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("user", 5, "bad_user"),
        ("user", ["me"], "bad_user"),
        ("rid", "x", "unknown_field"),
        ("dimensions", 8, "bad_dimensions"),
        ("dimensions", 17, "bad_dimensions"),
    ],
)
def test_what_a_service_refuses_is_refused_hit_or_miss(field: str, value: Any, code: str) -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.sources[0].guarded = bench.sources[0].whole = True
            await bench.ask("kept", user="me", rid=None)
            await bench.kept()
            assert (await bench.ask("kept", dimensions=16)).hits == 1
            for text in ("kept", "new"):
                reply = await bench.ask(text, **{field: value})
                assert (reply.status, reply.body["error"]["code"]) == (400, code)
                assert reply.body["error"]["param"] == field
            assert len(bench.server.calls) == 1
            assert set(bench.server.calls[0]) == {"model", "input", "encoding_format", "user"}

    run(work())


@pytest.mark.parametrize("status", [400, 404, 413, 422, 429, 500, 503])
@pytest.mark.parametrize(
    "body", ['{"error":"too long","error_type":"Validation"}', '{"object":"error","code":1}', "no"]
)
def test_refusals_of_servers_are_described_in_whatever_form(status: int, body: str) -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            bench.server.status, bench.server.error_body = status, body
            reply = await bench.ask("x")
            assert reply.status == status
            document = json.loads((await bench.get("openapi.json"))[1])
            answers = document["paths"]["/v1/embeddings"]["post"]["responses"]
            answer = answers.get(str(status), answers["default"])
            schema = answer["content"]["application/json"]["schema"]
            jsonschema.validate(reply.body, schema | {"components": document["components"]})
            needed = {name for name, header in answer["headers"].items() if header["required"]}
            assert {name.lower() for name in needed} <= {name.lower() for name in reply.headers}

    run(work())


async def request_of(bench: Bench) -> dict[str, Any]:
    """The schema of a request."""
    document = json.loads((await bench.get("openapi.json"))[1])
    request: dict[str, Any] = document["components"]["schemas"]["EmbeddingRequest"]
    return request


def test_it_says_that_a_key_is_wanted_and_wants_one(folder: Path) -> None:
    bench = Bench(Memory(), keys=Keys(folder / "keys"))
    with Running(bench):
        headers = {"Authorization": f"Bearer {KEY}"}
        page = f"{bench.url}openapi.json"
        assert requests.get(page, timeout=PATIENCE_S).status_code == 401  # it names the models
        answer = requests.get(page, headers=headers, timeout=PATIENCE_S)
        assert answer.status_code == 200
        assert answer.json()["security"] == [{"key": []}]
        refused = requests.post(f"{bench.url}v1/embeddings", timeout=PATIENCE_S)
        assert refused.status_code == 401
        wrong = requests.get(f"{bench.url}v1/embeddings", headers=headers, timeout=PATIENCE_S)
        assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")

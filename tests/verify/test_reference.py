"""The reference: computed by the worker in another Python, cached, and refused with reasons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from launcher import child_environment
from launcher.documents.smoke import VerifyRequest
from launcher.verify import reference, texts
from launcher.verify.observations import cosine
from launcher.verify.reference import cache_path, decode_vector, load, obtain
from tests.patience import PATIENCE_S, processor_time
from tests.verify.fakes import request

# Stand-ins for torch and transformers: a text's hidden states are its letters' codes and places.
FAKE_TORCH = """
float32 = "float32"
__version__ = "0.0-fake"
def set_num_threads(count):
    pass
class no_grad:
    def __enter__(self):
        print("libraries may print what they like")
    def __exit__(self, *error):
        pass
"""
FAKE_TRANSFORMERS = """
import os
import numpy
import torch
__version__ = "5.0.fake"
if os.environ.get("FAKE_FAILS") == "import":
    raise RuntimeError("no kernel image")
class utils:
    class logging:
        set_verbosity_error = disable_progress_bar = staticmethod(lambda: None)
class Ids(list):
    def tolist(self):
        return list(self)
class Tensor:
    def __init__(self, values):
        self.values = values
    def __getitem__(self, item):
        return Tensor(self.values[item])
    def double(self):
        return self
    def numpy(self):
        return self.values
class Output:
    pass
class Model:
    config = Output()
    def eval(self):
        return self
    def __call__(self, input_ids):
        output = Output()
        (ids,) = input_ids
        output.last_hidden_state = Tensor(numpy.array([[[i, n, 1.0] for n, i in enumerate(ids)]]))
        return output
class AutoConfig:
    _attn_implementation = "flash_attention_2"
    chunk_size_feed_forward = 4
    return_dict = False
    @classmethod
    def from_pretrained(cls, path, *, local_files_only, trust_remote_code):
        assert local_files_only and not trust_remote_code
        return cls()
class AutoModel:
    @staticmethod
    def from_pretrained(
        path, *, config, local_files_only, trust_remote_code, output_loading_info, dtype
    ):
        assert local_files_only and not trust_remote_code and dtype == torch.float32
        assert config.return_dict and not config.chunk_size_feed_forward
        assert config._attn_implementation == "eager"
        missing = os.environ.get("FAKE_MISSING", "pooler.dense.weight").split(",")
        return Model(), {"missing_keys": missing}
class Tokenizer:
    model_max_length = 512
    def __call__(self, text, *, add_special_tokens=True, **options):
        end = "." if add_special_tokens and os.environ.get("FAKE_ENDS") else ""
        ids = [ord(char) for char in text + end][: options.get("max_length")]
        return {"input_ids": [Ids(ids)] if "return_tensors" in options else ids}
    def convert_ids_to_tokens(self, ids):
        return [chr(each) for each in ids]
class AutoTokenizer:
    @staticmethod
    def from_pretrained(path, *, local_files_only, trust_remote_code):
        return Tokenizer()
"""


@pytest.fixture
def asked(tmp_path: Path) -> VerifyRequest:
    """A request whose engine Python has the stand-ins, and a mean-pooled model."""
    site, model = tmp_path / "site", tmp_path / "model"
    site.mkdir()
    (site / "torch.py").write_text(FAKE_TORCH)
    (site / "transformers.py").write_text(FAKE_TRANSFORMERS)
    (model / "1_Pooling").mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "bert"}')
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return request(
        model_path=str(model),
        engine_python=sys.executable,
        engine_env={"PYTHONPATH": str(site)},
        reference_cache=str(tmp_path / "cache" / "references"),
        reference_timeout_s=PATIENCE_S,
    )


def changed(asked: VerifyRequest, **changes: Any) -> VerifyRequest:
    import msgspec

    return msgspec.structs.replace(asked, **changes)


def with_env(asked: VerifyRequest, **env: str) -> VerifyRequest:
    return changed(asked, engine_env={**asked.engine_env, **env})


def test_it_is_computed_then_cached_and_the_same(asked: VerifyRequest) -> None:
    first = obtain(asked, texts.TEXTS)
    assert (first.status, first.not_cached) == ("computed", None)
    # Without a Python only the cache can answer.
    second = obtain(changed(asked, engine_python=None), texts.TEXTS)
    assert second.status == "cached"
    assert first.reference == second.reference
    assert first.reference is not None
    assert set(first.reference.alternatives) == {"cls", "last", "max"}
    hello = texts.BY_NAME["one_token"]
    codes = [ord(char) for char in hello]
    mean = [sum(codes) / 5, 2.0, 1.0]
    assert cosine(first.reference.vectors["one_token"], mean) == pytest.approx(1)
    cls = first.reference.alternatives["cls"]["one_token"]
    assert cosine(cls, [codes[0], 0, 1]) == pytest.approx(1)


def test_a_reference_of_a_worker_that_read_in_the_locale_is_not_believed(
    asked: VerifyRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under Latin-1 the worker of 0.1.0 read its texts wrongly, and the result was cached."""
    now = cache_path(asked, texts.TEXTS)
    text = reference.WORKER.read_text("utf-8")
    assert "json.load(sys.stdin.buffer)" in text
    older = tmp_path / "older.py"
    older.write_text(text.replace("sys.stdin.buffer", "sys.stdin"), encoding="utf-8")
    monkeypatch.setattr(reference, "WORKER", older)
    assert cache_path(asked, texts.TEXTS) != now


def test_the_worker_speaks_utf8_in_any_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.ISO-8859-1")
    monkeypatch.setenv("LANG", "zh_CN.GB18030")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    found = reference.worker_environment({"OMP_NUM_THREADS": "1"})
    assert {name: found[name] for name in child_environment.TEXT} == dict(child_environment.TEXT)
    assert "LANG" not in found


@pytest.mark.parametrize(("processors", "threads"), [(1, 1), (2, 1), (3, 1), (16, 8)])
def test_beside_an_engine_that_polls_the_reference_leaves_it_processors(
    processors: int, threads: int, asked: VerifyRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an H100's host MiniLM's took minutes with 16 threads on 16 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(processors)))
    sent: list[bytes] = []

    def run(_argv: list[str], *, input: bytes, **_rest: object) -> object:  # noqa: A002 - subprocess's own
        sent.append(input)
        raise OSError(2, "no such file")

    monkeypatch.setattr(subprocess, "run", run)
    for env in ({}, {"OMP_NUM_THREADS": "16"}):
        given = msgspec.structs.replace(asked, engine_env=env)
        with pytest.raises(reference.ReferenceUnavailableError):
            reference.compute(given, ["a"])
    assert [msgspec.json.decode(each)["threads"] for each in sent] == [threads, None]
    assert reference.worker_environment({})["GOMP_SPINCOUNT"] == "10000"


def test_the_cache_is_private_and_holds_no_texts(asked: VerifyRequest) -> None:
    obtain(asked, texts.TEXTS)
    path = cache_path(asked, texts.TEXTS)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    content = path.read_text()
    assert not any(each.text in content for each in texts.TEXTS if len(each.text) > 8)
    assert path.name.startswith(asked.fingerprint)
    assert len(list(path.parent.iterdir())) == 1


def test_the_cache_loads_in_milliseconds(asked: VerifyRequest) -> None:
    obtain(asked, texts.TEXTS)
    with processor_time(0.1):
        assert load(cache_path(asked, texts.TEXTS), texts.TEXTS) is not None


def test_another_checkpoint_text_or_limit_has_another_cache(asked: VerifyRequest) -> None:
    paths = {
        cache_path(asked, texts.TEXTS),
        cache_path(asked, texts.TEXTS[:-1]),
        cache_path(changed(asked, fingerprint="other"), texts.TEXTS),
        cache_path(changed(asked, context_length=8), texts.TEXTS),
        cache_path(changed(asked, pooling="cls"), texts.TEXTS),
    }
    assert len(paths) == 5


@pytest.mark.parametrize("name", ["../../evil", "a/b", "", "x" * 300, "nul\0"])
def test_a_strange_fingerprint_stays_in_the_folder(asked: VerifyRequest, name: str) -> None:
    path = cache_path(changed(asked, fingerprint=name), texts.TEXTS)
    assert path.parent == Path(asked.reference_cache)
    assert len(path.name) < 120
    assert "\0" not in path.name


def test_a_corrupt_cache_is_computed_again(asked: VerifyRequest) -> None:
    obtain(asked, texts.TEXTS)
    path = cache_path(asked, texts.TEXTS)
    whole = path.read_bytes()
    document = json.loads(whole)
    fewer = {**document, "vectors": document["vectors"][1:]}
    narrow = {**document, "vectors": [each[:8] for each in document["vectors"]]}
    no_base64 = {**document, "vectors": ["?" for _ in document["vectors"]]}
    wrong = [json.dumps(each).encode() for each in (fewer, narrow, no_base64, {})]
    for broken in (b"", whole[: len(whole) // 2], b"\x00\xff", b"[" * 10_000, *wrong):
        path.write_bytes(broken)
        assert load(path, texts.TEXTS) is None
    outcome = obtain(asked, texts.TEXTS)
    assert outcome.status == "computed"
    assert path.read_bytes() == whole


def test_a_symbolic_link_in_the_cache_is_not_followed(asked: VerifyRequest, tmp_path: Path) -> None:
    obtain(asked, texts.TEXTS)
    path = cache_path(asked, texts.TEXTS)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert load(path, texts.TEXTS) is None


def test_a_cache_that_cannot_be_written_only_costs_time(
    asked: VerifyRequest, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    outcome = obtain(changed(asked, reference_cache=str(tmp_path / "file" / "x")), texts.TEXTS)
    assert outcome.status == "computed"
    assert outcome.reference is not None
    assert outcome.not_cached


def test_without_an_engine_environment(asked: VerifyRequest) -> None:
    outcome = obtain(changed(asked, engine_python=None), texts.TEXTS)
    assert outcome.reference is None
    assert outcome.status.startswith("unavailable: no engine environment")


def test_nothing_is_computed_where_parity_is_not_asked_for(asked: VerifyRequest) -> None:
    outcome = obtain(changed(asked, parity_min=0.0), texts.TEXTS)
    assert outcome.status == "unavailable: not asked for"


@pytest.mark.parametrize("python", ["/nonexistent/python", "/", "/etc/passwd"])
def test_a_python_that_does_not_start(asked: VerifyRequest, python: str) -> None:
    outcome = obtain(changed(asked, engine_python=python), texts.TEXTS)
    assert "does not start" in outcome.status
    assert python in outcome.status


def test_a_library_that_fails_is_quoted(asked: VerifyRequest) -> None:
    outcome = obtain(with_env(asked, FAKE_FAILS="import"), texts.TEXTS)
    assert outcome.status == "unavailable: RuntimeError: no kernel image"


def test_missing_weights_are_no_reference(asked: VerifyRequest) -> None:
    """transformers fills absent weights with random numbers and only warns."""
    outcome = obtain(with_env(asked, FAKE_MISSING="encoder.layer.1.weight"), texts.TEXTS)
    assert "lacks 1 weights" in outcome.status
    assert "encoder.layer.1.weight" in outcome.status


def test_an_environment_without_torch_says_so(asked: VerifyRequest) -> None:
    outcome = obtain(changed(asked, engine_env={}), texts.TEXTS)
    assert "No module named 'torch'" in outcome.status


def script(tmp_path: Path, body: str) -> str:
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("import os; os.kill(os.getpid(), 9)", "want of memory"),
        ("raise SystemExit('strange end')", "status 1: strange end"),
        ("print('no json')", "unreadable"),
        ("print('{}')", "unreadable"),
        ("import time; time.sleep(30)", "not computed within 0.5 s"),
    ],
)
def test_a_worker_that_ends_badly(
    asked: VerifyRequest, tmp_path: Path, body: str, expected: str
) -> None:
    limit = 0.5 if "sleep" in body else 30.0
    python = script(tmp_path, body)
    outcome = obtain(changed(asked, engine_python=python, reference_timeout_s=limit), texts.TEXTS)
    assert outcome.status.startswith("unavailable: ")
    assert expected in outcome.status


def test_the_worker_sees_no_secrets(
    asked: VerifyRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLAUNCH_VERIFY_KEY", "canary")
    monkeypatch.setenv("HF_TOKEN", "canary")
    seen = tmp_path / "environment"
    body = f"import os, json; json.dump(dict(os.environ), open({str(seen)!r}, 'w'))"
    obtain(changed(asked, engine_python=script(tmp_path, body)), texts.TEXTS)
    environment = json.loads(seen.read_text())
    assert "canary" not in environment.values()
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert environment["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("encoded", ["?", "AAA", "AAAA", "AAAAAAA="])
def test_what_is_no_whole_float32_is_refused(encoded: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_vector(encoded)

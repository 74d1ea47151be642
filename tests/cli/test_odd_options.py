"""Options that Python could read and nobody can mean: refused in one sentence, without secrets."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import requests

from launcher.app.cache_warming import warm_cache
from launcher.errors import QlaunchError
from tests.cli.commandline import Run

URL = "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    "words",
    [
        ("compare", "cpu-minilm", "--html", "-"),
        ("bundle", "make", "-"),
        ("embed", __file__, "--input-format", "text", "-o", "-", "--format", "npy", "--url", URL),
        ("embed", __file__, "-o", "x.jsonl", "--url", URL, "--output-column", "v\udcff"),
        ("embed", __file__, "-o", "x.jsonl", "--url", URL, "--model", "m\udcff"),
        ("gateway", URL, "--timeout", "nan"),
        ("gateway", URL, "--timeout", "0"),
        ("gateway", URL, "--timeout", "-1"),
        ("gateway", URL, "--timeout", "inf"),
        ("gateway", URL, "--hold", "nan"),
        ("gateway", URL, "--cache-wait-ms", "nan"),
        ("gateway", URL, "--otlp", "http://u:geheim@h"),
        ("gateway", URL, "--otlp", "http://[::1"),
        ("gateway", URL, "--cache-ttl", "99999999999999999999"),
        ("gateway", URL, "--cache", ""),
        ("gateway", URL, "--cache", "redis://:geheim@[::1"),
        ("gateway", URL, "--cache", "memcached://u:geheim@h:x"),
        ("cache", "stats", "--cache", "redis://:geheim@[::1"),
        ("embed", "in.txt", "-o", "out.npy", "--url", URL, "--wait", "nan"),
        ("down", "svc", "--timeout", "inf"),
        ("top", "--interval", "nan"),
    ],
)
def test_what_nobody_can_mean_is_a_usage_error(words: tuple[str, ...], run: Run) -> None:
    """`nan` passed every range, an empty --cache was the default one, and half a bracket was an
    unexpected error."""
    answer = run(*words)
    assert answer.code == 2, answer.err
    assert "unexpected" not in answer.err
    assert "geheim" not in answer.out + answer.err


@pytest.mark.parametrize(
    "setting",
    ["port", "metrics-port", "dtype", "threads", "start-timeout", "replicas", "api-key-file"],
)
def test_a_setting_that_is_not_utf_8_is_wrong_usage(
    setting: str, run: Run, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was an unexpected UnicodeEncodeError."""
    odd = "1\udcff"  # as Python has the byte FF of an argument or a variable
    answer = run("plan", "cpu-minilm", f"--{setting}", odd, "--json")
    assert (answer.code, answer.error["code"]) == (2, "setting_invalid")
    variable = setting.upper().replace("-", "_") + "_S" * (setting == "start-timeout")
    monkeypatch.setenv(f"QLAUNCH_{variable}", odd)
    answer = run("plan", "cpu-minilm", "--json")
    assert (answer.code, answer.error["code"]) == (2, "setting_invalid")
    assert variable in answer.error["message"]


@pytest.mark.parametrize(
    "words",
    [
        *(("up", "{}"), ("status", "{}"), ("down", "{}"), ("scale", "{}", "2"), ("logs", "{}")),
        *(("plan", "{}"), ("bench", "{}"), ("verify", "{}"), ("gateway", "{}")),
        *(("embed", "{}", "-o", "o.npy"), ("plan", "cpu-minilm", "--model", "{}")),
    ],
)
def test_a_word_that_no_file_can_be_called_is_a_usage_error(
    words: tuple[str, ...], run: Run
) -> None:
    """It was an unexpected OSError of every command that takes a name."""
    answer = run(*(word.format("x" * 300) for word in words), "--json")
    assert (answer.code, answer.error["code"]) == (2, "name_too_long")
    assert len(answer.error["message"]) < 120


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"one\ntwo\n", "more than one"),
        (b"\xff", "not UTF-8"),
        (None, "No such"),
    ],
)
def test_a_key_that_no_header_can_have_is_refused(
    content: bytes | None, says: str, tmp_path: Path, run: Run
) -> None:
    """Of two lines each call failed, and of none each went without a key."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    answer = run("gateway", URL, "--upstream-key-file", str(file), "--cache", "none", "--port", "0")
    assert answer.code == 2
    assert says in answer.err


class Asked:
    """Stands in for the session of requests, and keeps what it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        self.keys: list[str] = []
        self.urls: list[str] = []
        self.refused: str | None = None
        outer = self

        def post(session: requests.Session, url: str, *, data: bytes, **_named: object) -> object:
            import json

            outer.urls.append(url)
            outer.texts += json.loads(data)["input"]
            outer.keys.append(str(session.headers["Authorization"]))
            answer = requests.Response()
            answer.status_code = 400 if outer.refused else 200
            answer._content = (outer.refused or "").encode()
            answer.headers["X-Cache-Hits"] = "0"
            return answer

        monkeypatch.setattr(requests.Session, "post", post)


def test_warming_takes_lines_and_keys_as_the_gateway_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte order mark was part of the first text, a carriage return ended one, and what a key is
    allowed was sent as part of it."""
    asked = Asked(monkeypatch)
    file, key = tmp_path / "texts.txt", tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo \rthree\n\nfour")
    key.write_text("# ours\nsecret-key texts=5 priority=bulk\n")
    key.chmod(stat.S_IRUSR)
    warm_cache(file, url="127.0.0.1:30100", model="m", key_file=key, batch=2)
    assert asked.texts == ["one", "two \rthree", "four"]
    assert set(asked.keys) == {"Bearer secret-key"}
    assert set(asked.urls) == {"http://127.0.0.1:30100/v1/embeddings"}
    asked.refused = "input[2] has 900 tokens"  # its number in a call says nothing to a reader
    with pytest.raises(QlaunchError, match=r"\(400\): line 4 has 900 tokens"):
        warm_cache(file, url="127.0.0.1:30100", model="m", key_file=key, batch=4)


def test_warming_names_no_secret_of_an_address(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("one\n")
    with pytest.raises(QlaunchError) as refused:
        warm_cache(file, url="http://u:geheim@h/v1", model="m", key_file=None, batch=2)
    assert (refused.value.code, refused.value.exit_code) == ("bad_url", 2)
    assert "geheim" not in str(refused.value)

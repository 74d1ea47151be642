"""Headers of safetensors files: right ones, and ones that lie."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.errors import ExitCode, QlaunchError
from launcher.model.safetensors import check_names, read_header, read_headers
from launcher.model.values import finite
from tests.checkpoints import make_qwen3
from tests.checkpoints.weights import Source, Weight, write_safetensors


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    """A file with this header; `length` is what it claims the header's length to be."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    claimed = len(raw) if length is None else length
    path.write_bytes(claimed.to_bytes(8, "little") + raw + data)
    return path


def refused(path: Path, code: str, said: str) -> None:
    with pytest.raises(QlaunchError) as caught:
        read_headers(path) if path.is_dir() else read_header(path)
    assert caught.value.code == code, caught.value.message
    assert caught.value.exit_code == ExitCode.USAGE
    assert said in caught.value.message


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_header_is_read(tmp_path: Path) -> None:
    weights = [Weight("a", (3, 4)), Weight("b", ()), Weight("empty", (0, 4))]
    write_safetensors(tmp_path / "m.safetensors", weights, Source(0, "float16"))
    header = read_header(tmp_path / "m.safetensors")
    found = {(tensor.name, tensor.dtype, tensor.shape) for tensor in header.tensors}
    assert found == {("a", "F16", (3, 4)), ("b", "F16", ()), ("empty", "F16", (0, 4))}
    assert sum(tensor.elements for tensor in header.tensors) == 13
    assert header.size == header.data_start + 26


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", "model_incomplete", "empty"),
        (b"abc", "model_corrupt", "not a complete safetensors file"),
        (b"\xff" * 16, "model_corrupt", "not a complete safetensors file"),
        (b"\x40" + bytes(7) + b"{}", "model_corrupt", "would be 64 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid x", "model_incomplete", "git-lfs"),
        (bytes(8), "model_corrupt", "JSON"),
        (b"\x02" + bytes(7) + b"{}", "model_incomplete", "no tensors"),
        (b"\x02" + bytes(7) + b"[]", "model_corrupt", "not a JSON object"),
        (b"\x04" + bytes(7) + b"oops", "model_corrupt", "JSON"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: bytes, code: str, said: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    refused(path, code, said)


@pytest.mark.parametrize(
    ("header", "data", "code", "said"),
    [
        ({"a": entry(0, 16, [4])}, bytes(15), "model_incomplete", "cut short"),
        ({"a": entry(0, 16, [4])}, bytes(17), "model_corrupt", "after the last tensor"),
        ({"a": entry(0, 16, [5])}, bytes(16), "model_corrupt", "do not fit"),
        ({"a": entry(4, 20, [4])}, bytes(20), "model_corrupt", "holes"),
        ({"a": entry(0, 16, [4]), "b": entry(8, 24, [4])}, bytes(24), "model_corrupt", "overlap"),
        ({"a": entry(16, 0, [4])}, bytes(16), "model_corrupt", "'a'"),
        ({"a": entry(0, 16, [4], "F31")}, bytes(16), "model_corrupt", "unknown type"),
        ({"a": entry(-16, 0, [4])}, bytes(16), "model_corrupt", "no sense"),
        ({"a": entry(0, 16, [-4])}, bytes(16), "model_corrupt", "no sense"),
        ({"a": entry(0, 2**80, [2**78])}, bytes(16), "model_corrupt", "no sense"),
        ({"a": entry(0, 4, [1] * 1000)}, bytes(4), "model_corrupt", "no sense"),
        ({"a": entry(0, 4, [True])}, bytes(4), "model_corrupt", "no sense"),
        (
            {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}},
            bytes(4),
            "model_corrupt",
            "no sense",
        ),
        (
            {"a": {"dtype": "F32", "shape": "4", "data_offsets": [0, 4]}},
            bytes(4),
            "model_corrupt",
            "no sense",
        ),
        ({"a": 7}, b"", "model_corrupt", "no sense"),
        ({"__metadata__": {"format": "pt"}}, b"", "model_incomplete", "no tensors"),
    ],
)
def test_headers_that_lie(
    tmp_path: Path, header: object, data: bytes, code: str, said: str
) -> None:
    refused(write(tmp_path / "m.safetensors", header, data), code, said)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.binary(max_size=120), st.integers(0, 130))
def test_no_bytes_bring_anything_but_a_refusal(tmp_path: Path, raw: bytes, length: int) -> None:
    path = write(tmp_path / "m.safetensors", raw, length=length)
    with pytest.raises(QlaunchError) as caught:
        read_header(path)
    assert caught.value.code in {"model_corrupt", "model_incomplete"}


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = (make_qwen3(tmp_path / "m") / "model.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in (0, 4, 8, 9, 500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(QlaunchError):
            read_header(path)


# --- shards --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("sharded"), shards=4)


@pytest.fixture
def shards(sharded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sharded, tmp_path / "m")


def _index(folder: Path) -> Path:
    return folder / "model.safetensors.index.json"


def test_an_index_that_names_absent_shards_says_which(shards: Path) -> None:
    for number in (2, 4):
        (shards / f"model-{number:05d}-of-00004.safetensors").unlink()
    refused(
        shards, "model_incomplete", "names 4 shards, of which 2 are missing: model-00002-of-00004"
    )


def test_shards_without_an_index_count_themselves(shards: Path) -> None:
    _index(shards).unlink()
    assert len(read_headers(shards)) == 4
    with pytest.raises(
        QlaunchError, match=r"no model[.]safetensors[.]index[.]json that says"
    ) as caught:
        check_names(shards)
    assert (caught.value.code, caught.value.exit_code) == ("model_incomplete", 2)
    (shards / "model-00003-of-00004.safetensors").unlink()
    refused(shards, "model_incomplete", "model-00003-of-00004.safetensors is missing")


def test_an_index_that_contradicts_its_shards(shards: Path) -> None:
    index = json.loads(_index(shards).read_text(encoding="utf-8"))
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = "model-00001-of-00004.safetensors"
    _index(shards).write_text(json.dumps(index), encoding="utf-8")
    refused(shards, "model_corrupt", "but it does not")


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../../etc/x.safetensors"}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "pytorch_model.bin"}}',
        "[]",
        '{"weight_map',
    ],
)
def test_an_index_that_is_none(shards: Path, content: str) -> None:
    _index(shards).write_text(content, encoding="utf-8")
    refused(shards, "model_corrupt", "index.json")


def test_other_weight_formats_are_refused_by_name(tmp_path: Path) -> None:
    refused(tmp_path, "model_incomplete", "no weights")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    refused(tmp_path, "model_unsupported", "pytorch_model.bin")


def test_a_link_to_a_blob_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
    refused(tmp_path, "model_incomplete", "link to a file that is gone")


def test_a_folder_or_a_pipe_in_the_place_of_weights(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "model.safetensors")
    refused(tmp_path, "model_corrupt", "is not a file")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    refused(tmp_path, "model_corrupt", "is not a file")


@pytest.mark.parametrize(
    ("dtype", "kind"), [("F64", "<d"), ("F32", "<f"), ("F16", "<e"), ("BF16", "<f")]
)
@pytest.mark.parametrize("at", [0, 1, 500, 999])
def test_one_number_that_is_none_is_seen_among_a_thousand(dtype: str, kind: str, at: int) -> None:
    def stored(numbers: list[float]) -> bytes:
        each = [struct.pack(kind, number) for number in numbers]
        return b"".join(data[2:] if dtype == "BF16" else data for data in each)

    numbers = [(-1) ** n * (65504.0 if dtype == "F16" else 3e38) / (n + 1) for n in range(1000)]
    assert finite(dtype, stored(numbers))
    for bad in (math.nan, math.inf, -math.inf):
        assert not finite(dtype, stored([*numbers[:at], bad, *numbers[at + 1 :]]))

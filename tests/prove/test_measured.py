"""What a profile for a GPU says of itself comes from a record, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from launcher.config.loading import list_profiles
from launcher.documents.proof import Card, Claim, Proof, ProvedMachine
from tests.engines_cuda import page

ROOT = Path(__file__).parents[2]
RAW = ROOT / "docs" / "gpu"


def proved() -> set[str]:
    """Profiles that a record from a machine with a GPU has proved."""
    names: set[str] = set()
    for path in (RAW / "proofs").glob("*.json"):
        proof = msgspec.json.decode(path.read_bytes(), type=Proof)
        if proof.device == "cuda":
            names |= {claim.profile for claim in proof.claims if claim.ok}
    return names


def test_a_profile_for_a_gpu_is_measured_only_where_a_record_says_so(tmp_path: Path) -> None:
    profiles = {ref.name: ref.profile for ref in list_profiles(tmp_path) if ref.profile}
    cuda = {name: p for name, p in profiles.items() if p.hardware.device == "cuda"}
    assert len(cuda) > 10
    assert {name for name, each in cuda.items() if each.measured} == proved()


@pytest.mark.parametrize(("ok", "word"), [(True, "yes"), (False, "no")])
def test_a_record_becomes_a_row(ok: bool, word: str, tmp_path: Path) -> None:
    claim = Claim(profile="t4-fp16", release="turing", ok=ok, worst_cosine=0.99951,
                  gpu_measured_bytes=3 << 30)  # fmt: skip
    proof = Proof(
        id="p", qlaunch="0", began="then", minutes=20.0, device="cuda",
        machine=ProvedMachine(cards=(Card(name="Tesla T4"),)), claims=(claim,),
    )  # fmt: skip
    (tmp_path / "p.json").write_text(json.dumps(msgspec.to_builtins(proof)))
    (row,) = [line for line in page.proved(tmp_path).splitlines() if "t4-fp16" in line]
    assert row == (
        f"| `t4-fp16` | Tesla T4 | turing | {word} | 0.9995 | not measured | 3.22 GB |"
        " not measured | `p.json` |"
    )

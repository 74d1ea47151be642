"""docs/profiles.md, written from the profiles: `python -m tools.profile_table`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from launcher.app.candidates import sizes
from launcher.config.loading import LoadedProfile, list_profiles, load_profile
from launcher.config.profile import HardwareNeed
from launcher.config.size import parse_card_memory, parse_size
from launcher.linux.files import write_atomic
from launcher.model.cards import load_card
from launcher.plan import engine_and_card
from launcher.plan.recommend import ORDER, Kind, kind_of
from launcher.plan.suitability import Candidate
from launcher.units import GIB, size

DOCUMENT: Final = Path(__file__).resolve().parents[1] / "docs" / "profiles.md"
_NOWHERE: Final = Path("/nonexistent")

_HEAD: Final = """\
# Profiles

Every profile that ships with qlaunch, in the order in which `qlaunch recommend` prefers them: from
4 GB of GPU memory the model directly, from 2 to 4 GB quantised, without a GPU a smaller model, and
weights in RAM beside a GPU only where nothing else fits. `qlaunch profiles list` says which of them
run on a machine, which would with one change, and why the others cannot; `qlaunch profiles show
NAME` shows every flag with its reason. This page is generated (`make docs`).

Measured means that a run record of ours stands behind the profile. No GPU profile has one yet:
their flags are read from SGLang's own source and checked against each release's options, their
figures are predictions, and where a description gives latencies of a T4 they are those of an
article on CPU offload, not ours.

"""
_FOOT: Final = """\
Where several engine releases are listed (`engine: auto`), the first is taken that the card, its
driver and the platform allow. `cuda13` needs compute capability 8.0 and driver R580; `cuda12` the
same cards and driver R525 (it is always started without overlapping, for a deadlock of that
release); `turing` serves 7.5. Older cards (Volta, Pascal) have no release and are refused.

The profiles for quantised checkpoints (int8, int4) need one: give it with `--model`. Its
`quantization_config` is checked against what the profile asks for before anything starts.

## Your own

```console
qlaunch profiles new mine --model ./my-finetune   # a few lines on top of the best shipped profile
qlaunch profiles edit mine
qlaunch up mine
```

[own-profile.md](own-profile.md) goes through it step by step. Names of fields are checked;
`cors_origins` and `allowed_hosts` are among them ([clients.md](clients.md)).
"""


def document() -> str:
    """The page."""
    found = [_candidate(ref.name) for ref in list_profiles(_NOWHERE) if ref.shipped]
    parts = [_HEAD]
    for kind in ORDER:
        rows = [_row(candidate.profile) for candidate in found if kind_of(candidate) == kind]
        parts.append(_section(kind, rows))
    return "".join([*parts, _FOOT])


def _candidate(name: str) -> Candidate:
    loaded = load_profile(name, _NOWHERE)
    card = load_card(loaded.profile.model, None)
    return Candidate(loaded, card, sizes(card, loaded.profile))


def _section(kind: Kind, rows: list[str]) -> str:
    head = "| profile | what | hardware | engine | model | measured |\n|---|---|---|---|---|---|\n"
    return f"## {kind[0].upper()}{kind[1:]}\n\n{head}{''.join(rows)}\n"


def _row(loaded: LoadedProfile) -> str:
    profile = loaded.profile
    releases = ", ".join(
        f"`{release.name}`"
        for release in engine_and_card.candidates(profile.engine, profile.hardware)
    )
    model = f"`{profile.model}`"
    if profile.checkpoint is not None:
        model += f", {' or '.join(profile.checkpoint.quantization)}"
    measured = "yes" if profile.measured else "no"
    cells = (
        f"`{loaded.name}`", profile.title, _hardware(profile.hardware), releases, model, measured
    )  # fmt: skip
    return f"| {' | '.join(cells)} |\n"


def _hardware(need: HardwareNeed) -> str:
    if need.device == "cpu":
        return f"{size(parse_size(need.min_ram))} of RAM" if need.min_ram else "any CPU"
    low, high = need.min_compute_capability, need.max_compute_capability
    parts = [
        ", ".join(need.gpus),
        f"compute capability {low}{'' if high == low else ' and newer'}" if low else "",
        f"from {parse_card_memory(need.min_gpu_memory) / GIB:g} GB" if need.min_gpu_memory else "",
        "shared" if need.shared else "",
    ]
    return "; ".join(part for part in parts if part)


def main() -> int:
    """Write the document."""
    write_atomic(DOCUMENT, document().encode(), mode=0o644)
    sys.stderr.write(f"wrote {DOCUMENT}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

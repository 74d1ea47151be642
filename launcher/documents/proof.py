"""What `qlaunch prove` found on one machine: chapters of steps, each with its own outcome.

A step is one call of the program itself, or a drill; its `data` is what that call answered. Times
in seconds, memory in bytes.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

VERSION = 1

Outcome = Literal["ok", "failed", "timed_out", "skipped", "interrupted"]


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU, as it was then."""

    name: str
    compute_capability: str | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None


class ProvedMachine(msgspec.Struct, frozen=True, kw_only=True):
    """What a reader must know of the machine; nothing that names it."""

    cpu: str | None = None
    threads: int | None = None
    memory_bytes: int | None = None
    driver: str | None = None
    cards: tuple[Card, ...] = ()


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One step as it went."""

    name: str
    command: str
    """What was called, as one types it; for a drill, what was done."""
    outcome: Outcome
    seconds: float = 0.0
    exit_code: int | None = None
    why: str | None = None
    """The first error's words, where it did not end well."""
    data: dict[str, Any] = {}
    """`data` of the call's JSON document, scrubbed of secrets and of this user's folders."""


class Chapter(msgspec.Struct, frozen=True, kw_only=True):
    """Steps that belong together, done anew as a whole where they were cut short."""

    name: str
    title: str
    outcome: Outcome
    why: str | None = None
    seconds: float = 0.0
    began: str = ""
    steps: tuple[StepRecord, ...] = ()


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What was proved of one profile, in figures."""

    profile: str
    release: str | None
    ok: bool
    """Came up, its vectors are right, and the load was carried."""
    worst_cosine: float | None = None
    recall_difference: float | None = None
    ram_predicted_bytes: int | None = None
    ram_measured_bytes: int | None = None
    gpu_predicted_bytes: int | None = None
    gpu_measured_bytes: int | None = None
    gpu_method: str | None = None
    """How the GPU's memory was measured, or why it was not."""
    ready_s: float | None = None


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """`proof.json` of one `qlaunch prove`."""

    version: int = VERSION
    id: str
    qlaunch: str
    """This program's version."""
    began: str
    ended: str | None = None
    minutes: float
    device: Literal["cuda", "cpu"]
    machine: ProvedMachine = ProvedMachine()
    chapters: tuple[Chapter, ...] = ()
    claims: tuple[Claim, ...] = ()

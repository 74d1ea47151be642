"""Why a service failed, and what was given up before that."""

from __future__ import annotations

import msgspec

from launcher.argv import FlagValue


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a service failed."""

    code: str
    """Stable: start_failed, smoke_failed, timed_out, port_taken, …"""
    exit_code: int
    failure_class: str | None
    """Class from the log (`kv_budget`, `unknown_flag`, …), None where the log told nothing."""
    message: str
    fix: str | None
    evidence: tuple[str, ...] = ()
    """The log lines that prove it, terminal-safe and scrubbed."""


class TakenFallback(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the plan that was taken after a memory failure."""

    step: int
    """From 1."""
    of: int
    """Steps that the plan has."""
    flags: dict[str, FlagValue]
    """What it changed."""
    after: str | None
    """Class of the failure that it followed."""
    message: str

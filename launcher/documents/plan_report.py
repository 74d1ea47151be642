"""What `plan` and `up --dry-run` say of a plan: the command line's contract."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from launcher.config.service_cache import ServiceCache
from launcher.documents.evidence import Evidence
from launcher.documents.plan import Guard, MemoryPrediction
from launcher.documents.service_state import ExecutedEngine
from launcher.model.checkpoint import Prompts


class ClientPrompts(msgspec.Struct, frozen=True, kw_only=True):
    """What clients must put before texts, as the checkpoint's own files say."""

    query_prompt: str = ""
    document_prompt: str = ""
    default_prompt: str | None = None
    prompts: dict[str, str] = {}

    @classmethod
    def of(cls, found: Prompts | None) -> ClientPrompts:
        """Those of a checkpoint; empty where its files have none."""
        if found is None:
            return cls()
        return cls(
            query_prompt=found.query,
            document_prompt=found.document,
            default_prompt=found.default,
            prompts=dict(found.named),
        )


class PlannedMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory as it is foreseen."""

    predicted: MemoryPrediction


class PlannedReplica(msgspec.Struct, frozen=True, kw_only=True):
    """One replica of a set: what it takes, and the variables that are its own."""

    memory: PlannedMemory
    env: tuple[dict[str, str], ...]


class AbsentPart(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a start would fetch first."""

    kind: str
    name: str
    message: str


class PlanReport(msgspec.Struct, frozen=True, kw_only=True):
    """A plan for programs. What is unset is not in the document at all."""

    service: str
    profile: str
    model: str
    model_path: str
    fingerprint: str
    query_prompt: str
    document_prompt: str
    default_prompt: str | None
    prompts: dict[str, str]
    engine: ExecutedEngine
    """Placeholders in its arguments in words."""
    memory: PlannedMemory
    fits: bool
    reasons: tuple[str, ...]
    guard: Guard | None
    cache: ServiceCache | UnsetType = UNSET
    replicas: int | UnsetType = UNSET
    replica: PlannedReplica | UnsetType = UNSET
    notes: tuple[str, ...] = ()
    absent: tuple[AbsentPart, ...] = ()
    evidence: Evidence | UnsetType = UNSET
    """Of this machine only."""

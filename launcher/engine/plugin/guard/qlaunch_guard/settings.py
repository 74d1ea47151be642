"""What the plan lets through: read from JSON, every limit given."""

import json
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Settings:
    """The limits of one service; the plan's `guard` (launcher/plan/guard.py) says why each."""

    model: str
    """The served name."""
    vocabulary: int
    """Rows of the embedding table: ids are 0 to one less."""
    text_tokens: int | None
    """Most tokens of one input, special tokens counted; None: longer ones are cut."""
    text_bytes: int
    """Most bytes of one text in UTF-8."""
    inputs: int
    """Most inputs of one call."""
    call_tokens: int
    """Most token ids of one call."""
    body_bytes: int
    """Most bytes of one body."""
    dimensions: int
    """Width of a vector."""
    cut: bool
    """Whether fewer `dimensions` may be asked for."""
    metrics: bool
    """Whether /metrics is answered."""
    loopback: bool
    """Whether only this machine can connect: `Host` must name it then."""
    hosts: tuple
    """Further names that `Host` may have."""
    origins: tuple
    """Origins whose pages may ask; `*` is every one."""
    open_calls: int
    """Most calls at once."""
    open_bytes: int
    """Most bytes of bodies at once."""
    open_inputs: int
    """Most inputs at once."""
    open_tokens: int
    """Most tokens at once; of a text one for every four bytes is counted."""
    body_seconds: float
    """Longest time that a body may take to arrive."""


def read(text):
    """The settings in `text`.

    Raises:
        ValueError, TypeError: something is missing or unknown; the engine must not start then.
    """
    found = json.loads(text)
    names = {field.name for field in fields(Settings)}
    if set(found) != names:
        raise ValueError(f"guard settings differ in {sorted(set(found) ^ names)}")
    tuples = {name: tuple(found[name]) for name in ("hosts", "origins")}
    return Settings(**{**found, **tuples})

"""What the plan lets through: read from JSON, every limit given."""

import json
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Settings:
    """The limits of one service; the plan's `guard` (launcher/plan/guard.py) says why each.

    A plan may be older than this file: a service that runs while qlaunch is upgraded is started
    again, after a failure, with the plan that it was started with. What such a plan does not say
    is bounded all the same.
    """

    model: str
    """The served name."""
    vocabulary: int
    """Rows of the embedding table: ids are 0 to one less."""
    dimensions: int
    """Width of a vector."""
    text_tokens: int | None = 512
    """Most tokens of one input, special tokens counted; None: longer ones are cut."""
    text_bytes: int = 65_536
    """Most bytes of one text in UTF-8."""
    inputs: int = 2048
    """Most inputs of one call."""
    call_tokens: int = 300_000
    """Most token ids of one call."""
    call_bytes: int = 1_800_000
    """Most bytes of all texts of one call in UTF-8."""
    body_bytes: int = 4_194_304
    """Most bytes of one body."""
    aliases: tuple = ()
    """Further names that calls may give the model."""
    cut: bool = False
    """Whether fewer `dimensions` may be asked for."""
    metrics: bool = False
    """Whether /metrics is answered."""
    loopback: bool = True
    """Whether only this machine can connect: `Host` must name it then."""
    hosts: tuple = ()
    """Further names that `Host` may have."""
    origins: tuple = ()
    """Origins whose pages may ask; `*` is every one."""
    open_calls: int = 1024
    """Most calls at once."""
    open_bytes: int = 16_777_216
    """Most bytes of bodies at once."""
    open_inputs: int = 4096
    """Most inputs at once."""
    open_tokens: int = 1_200_000
    """Most tokens at once; of a text one for every four bytes is counted."""
    body_seconds: float = 30.0
    """Longest time that a body may take to arrive."""

    @property
    def names(self):
        """Every name of the model, the served one first."""
        return (self.model, *self.aliases)


def read(text):
    """The settings in `text`.

    Raises:
        ValueError, TypeError, KeyError: it is none; the engine must not start then.
    """
    found = json.loads(text)
    names = {field.name for field in fields(Settings)}
    known = {name: value for name, value in found.items() if name in names}
    for name in ("hosts", "origins", "aliases"):
        known[name] = tuple(known.get(name, ()))
    return Settings(**known)

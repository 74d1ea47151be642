from __future__ import annotations

from tests.service.conftest import home

__all__ = ["home"]

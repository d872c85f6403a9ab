"""The one import of grafanalib, which has no types of its own."""

from __future__ import annotations

import grafanalib.core as core  # type: ignore[import-untyped]  # the library ships no types

__all__ = ["core"]

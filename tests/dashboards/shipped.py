"""The dashboards that come with the package, as Grafana gets them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from dashboards.choices import Uid

OUT = Path(__file__).resolve().parent.parent.parent / "dashboards" / "out"


@cache
def document(uid: Uid) -> dict[str, Any]:
    """Return a dashboard; tests that change it must copy it first."""
    content: dict[str, Any] = json.loads((OUT / f"{uid}.json").read_text(encoding="utf-8"))
    return content

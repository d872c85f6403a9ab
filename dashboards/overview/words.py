"""What several panels of the overview say when they are empty."""

from __future__ import annotations

NO_FLEET = "No figures of the fleet: look at the exporter dashboard."

"""Long lists of instances, as an inventory gives them."""

from __future__ import annotations

import json


def fleet(n_instances: int) -> bytes:
    """Return a JSON list of that many instances, each with all that an entry may have."""
    return json.dumps(
        [
            {
                "id": f"node-{i // 800:03d}-{i:06d}",
                "url": f"http://10.0.{i // 250 % 250}.{i % 250}:{11_434 + i % 100}",
                "node": f"node-{i // 800:03d}",
                "model": "llama3.1:8b",
                "engine": "ollama",
                "state": "running",
                "developer": f"dev{i % 1_200}",
                "labels": {"rack": f"r{i % 40}", "zone": "a"},
            }
            for i in range(n_instances)
        ],
        indent=1,
    ).encode()

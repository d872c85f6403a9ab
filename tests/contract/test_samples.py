"""How much a scrape holds: what each simulated instance adds, a hundred of them counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exporter.inventory import Inventory, sources_for
from provisioning.simulator.app import running_fleet
from provisioning.simulator.endpoints import FOREVER_S
from provisioning.simulator.spec import FleetSpec, Hardware, Mode
from tests.exporter.pollers import watching

N_INSTANCES = 100
MAX_SAMPLES = 70_000
OF_10_000 = 10_000 // N_INSTANCES
PER_NODE_OR_INSTANCE = ("ollama_instance_", "ollama_node_")
PINNED = FleetSpec(
    n_instances=N_INSTANCES, mode=Mode.OLLAMA, keep_alive_s=FOREVER_S, hardware=((Hardware.GPU, 1),)
)
ARTICLE = FleetSpec(n_instances=N_INSTANCES, article_metrics=True)


@pytest.mark.parametrize("spec", [ARTICLE, PINNED], ids=["article", "stock Ollama, pinned"])
async def test_a_scrape_of_10_000_instances_has_less_than_70_000_samples(
    spec: FleetSpec, tmp_path: Path
) -> None:
    path = tmp_path / "fleet.json"
    async with running_fleet(spec) as fleet:
        path.write_text(json.dumps(fleet.inventory))
        inventory = Inventory(sources_for([str(path)]))
        await inventory.load()
        await inventory.close()
        async with watching(*inventory.targets) as polled:
            await polled.polled_all()
            page = await polled.page()

    samples = [line for line in page.splitlines() if not line.startswith("#")]
    many = [line for line in samples if line.startswith(PER_NODE_OR_INSTANCE)]
    names = sorted({line.partition("{")[0] for line in many})
    assert sum(line.startswith("ollama_instance_up") for line in samples) == N_INSTANCES
    assert len(samples) - len(many) + OF_10_000 * len(many) < MAX_SAMPLES, names

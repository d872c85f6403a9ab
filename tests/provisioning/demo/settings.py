"""What a person might choose for a run of `up`."""

from __future__ import annotations

from pathlib import Path

from provisioning.demo.plan import Settings
from provisioning.demo.ports import Wanted
from tests.ports import free_ports


def make_settings(run_dir: Path) -> Settings:
    """Return a small demonstration's settings, without real LLM servers."""
    provisioner, gateway, exporter, prometheus, alertmanager = (
        Wanted("a program", port, option="", is_explicit=False) for port in free_ports(5)
    )
    return Settings(
        spec=None,
        n_simulated=30,
        n_llama_servers=0,
        is_kept=False,
        run_dir=run_dir,
        provisioner=provisioner,
        gateway=gateway,
        exporter=exporter,
        prometheus=prometheus,
        alertmanager=alertmanager,
        poll_interval_s=5,
        duration_s=None,
        is_json=False,
    )

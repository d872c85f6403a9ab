"""The README says what the code does: its tables, commands and configuration are tested here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import bcrypt
import yaml

from alerts.cli import alerts
from dashboards.cli import dashboards
from dashboards.collection import boards
from dashboards.settings import DashboardSettings
from exporter import catalogue, webconfig
from exporter.engines import auto, fleet, llamacpp, ollama
from exporter.engines.base import Engine
from exporter.exposition import BOUNDARY_TEXTS
from exporter.inventory import Inventory, sources_for
from exporter.model import EngineName, Outcome, Target
from exporter.settings import SETTINGS
from exporter.snapshot import status_of
from exporter.web import PAGES
from ollama_fleet import COMMANDS
from provisioning.cli.instances import instances
from provisioning.cli.provisioner import provisioner
from provisioning.demo.cli import up
from provisioning.simulator.cli import simulate
from tests.conftest import ROOT
from tests.exporter.fleets import reading

README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(first_header: str) -> list[list[str]]:
    """Return the rows of each table whose first column is headed so, code marks removed."""
    rows = []
    is_inside = False
    for line in README.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not line.startswith("|"):
            is_inside = False
        elif cells[0] == first_header:
            is_inside = True
        elif is_inside and set(cells[0]) != {"-"}:
            rows.append([cell.replace("`", "").replace("\\|", "|") for cell in cells])
    return rows


def test_every_series_is_in_the_readme_with_its_meaning() -> None:
    expected = [
        [series.name, series.kind, ", ".join(series.labels) or "–", series.help.replace("`", "")]
        for series in catalogue.ALL_SERIES
    ]

    assert expected == table("series")


def test_every_setting_is_in_the_readme_with_its_default_and_meaning() -> None:
    expected = [
        [setting.name, setting.variable, setting.default or "–", setting.help.replace("`", "")]
        for setting in SETTINGS
    ]

    assert expected == table("option and key")


def test_every_dashboard_is_in_the_readme_with_its_uid_and_what_it_answers() -> None:
    expected = [
        [f"[{board.title}](dashboards/out/{board.uid}.json)", board.uid, board.description]
        for board in boards(DashboardSettings())
    ]

    assert expected == table("dashboard")


def test_every_page_of_the_exporter_is_in_the_readme() -> None:
    assert {*PAGES, "/"} == {row[0] for row in table("page")}


def test_every_file_that_the_readme_shows_or_links_to_is_there() -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", README)

    assert 30 < len(links)
    assert [] == [path for path in links if not (ROOT / path).exists()]


def test_every_outcome_is_in_the_readme_with_its_status() -> None:
    target = Target("a", "127.0.0.1", 1)
    expected = {str(outcome): str(status_of(target, reading(outcome))) for outcome in Outcome}

    assert expected == {row[0]: row[1] for row in table("outcome")}


def test_every_engine_is_in_the_readme_with_what_it_asks() -> None:
    engines: list[Engine] = [fleet.engine(), ollama.ENGINE, llamacpp.ENGINE]
    expected = {str(engine.name): (engine.requests, engine.identity_requests) for engine in engines}
    rows = {row[0]: row for row in table("engine")}

    assert set(EngineName) == set(rows)
    for name, (requests, identity_requests) in expected.items():
        assert ", ".join(requests) == rows[name][1]
        assert (", ".join(identity_requests) or "–") == rows[name][2]
    assert 4 == len(auto.PROBES)
    assert "four probes" == rows["auto"][2]


def test_the_articles_series_are_mapped_to_series_that_exist() -> None:
    names = {series.name for series in catalogue.ALL_SERIES}
    rows = table("there")

    assert 4 == len(rows)
    assert {name for row in rows for name in row[1].split(", ")} <= names


def test_every_series_named_anywhere_in_the_readme_exists() -> None:
    names = {series.name for series in catalogue.ALL_SERIES}
    told = set(re.findall(r"\bollama_(?:fleet|model|node|instance|exporter)_\w+", README))

    assert set() == {name for name in told if name not in names and not name.endswith("_")}


def test_every_command_and_make_target_named_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert set(re.findall(r"(?m)(?:^|`)ollama-fleet (\w+)", README)) <= set(COMMANDS)
    for target in re.findall(r"(?m)(?:^|`)make ([a-z-]+)", README):
        assert f"\n{target}:" in makefile


def test_every_option_named_in_the_readme_exists() -> None:
    options = {setting.option for setting in SETTINGS}
    others = {"--check", "--config.file", "--metrics"}
    of_etcd = {"--auto-compaction-mode", "--auto-compaction-retention", "--max-request-bytes"}
    others |= of_etcd
    groups = (alerts, dashboards, instances, provisioner)
    commands = (simulate, up, *(one for group in groups for one in group.commands.values()))
    of_commands = {
        option for command in commands for parameter in command.params for option in parameter.opts
    }

    assert set(re.findall(r"--[a-z][a-z.-]+", README)) <= {
        *options,
        *others,
        *of_commands,
        "--help",
    }


def test_the_boundaries_in_the_readme_are_ours() -> None:
    (told,) = re.findall(r"cumulative counts at ([\d., \nand]+) seconds", README)

    assert [float(text) for text in BOUNDARY_TEXTS[:-1]] == [
        float(number) for number in re.findall(r"[\d.]+", told)
    ]


def _yaml_blocks() -> list[str]:
    blocks = re.findall(r"( *)```yaml\n(.*?)```", README, flags=re.DOTALL)
    return [re.sub(f"(?m)^{indent}", "", body) for indent, body in blocks]


async def test_the_inventory_in_the_readme_is_a_good_one(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    path.write_text(_yaml_blocks()[0])
    inventory = Inventory(sources_for([str(path)]))

    await inventory.load()
    await inventory.close()

    assert ["llm-0001", "llm-0002"] == [target.id for target in inventory.targets]


def test_promtool_finds_the_scrape_configuration_in_the_readme_right(
    promtool_binary: Path, tmp_path: Path
) -> None:
    path = tmp_path / "prometheus.yml"
    path.write_text(_yaml_blocks()[1])

    checked = subprocess.run(
        [promtool_binary, "check", "config", path], capture_output=True, text=True, check=False
    )

    assert 0 == checked.returncode, checked.stdout + checked.stderr


def test_the_scrape_configuration_in_the_readme_is_for_the_default_address() -> None:
    (job,) = yaml.safe_load(_yaml_blocks()[1])["scrape_configs"]
    listen_address = next(item.default for item in SETTINGS if "web.listen-address" == item.name)

    assert job["honor_labels"]
    assert [{"targets": [listen_address]}] == job["static_configs"]


def test_the_web_configuration_in_the_readme_is_a_good_one(tmp_path: Path) -> None:
    config = webconfig.parse(_yaml_blocks()[2].encode(), tmp_path / "web.yml")

    assert config.tls is not None
    assert tmp_path / "server.crt" == config.tls.cert_file
    assert () == config.notes
    assert bcrypt.checkpw(b"example", config.users["prometheus"])

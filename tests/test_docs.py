"""The documentation says what the code does: its references, commands and examples are tested."""

from __future__ import annotations

import ast
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import bcrypt
import click
import pytest
import yaml

from alerts import config as alerts_config
from alerts import rulebook
from alerts.cli import alerts
from alerts.series import PROVISIONER_SERIES
from alerts.settings import Settings
from alerts.slo_cli import slo
from dashboards.cli import dashboards
from exporter import catalogue, webconfig
from exporter.catalogue import BOUNDARIES_S
from exporter.cli import exporter
from exporter.config import build, read_file
from exporter.engines import ENGINES
from exporter.inventory import Inventory, sources_for
from exporter.inventory.kubernetes import parse_query
from exporter.inventory.sources import urls_of
from exporter.landing import PATHS
from exporter.model import Outcome, Target
from exporter.settings import SETTINGS
from exporter.status import NOT_EXPECTED, polled_status
from exporter.warehouse.cli import warehouse
from ollama_fleet.cli import COMMANDS
from ollama_fleet.clock import SystemClock
from ollama_fleet.durations import duration_text
from provisioning.api.routes import AGE_HEADER
from provisioning.capacity.cli import capacity
from provisioning.cli.common import PREFIX, TOKEN_OPTION
from provisioning.cli.instances import instances
from provisioning.cli.provisioner import provisioner
from provisioning.cli.settings import OPTIONS
from provisioning.cli.setup import CLIENT_DIR, STATE_DIR, USER, provisioner_unit
from provisioning.demo.cli import up
from provisioning.demo.observers import PROVISIONER_JOB
from provisioning.gateway.cli import gateway
from provisioning.load.cli import load
from provisioning.metrics import Metrics
from provisioning.runtime import node_setup
from provisioning.runtime.containerd import containers
from provisioning.runtime.containerd.runtime import namespace_of
from provisioning.simulator.cli import simulate
from provisioning.simulator.spec import MODELS
from provisioning.spec.document import load_fleet
from tests import reference
from tests.conftest import ROOT, refuse
from tests.exporter.fleets import reading

DOCS = ROOT / "docs"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
TEXT_BY_PATH = {
    path: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", CONTRIBUTING, ROOT / "SECURITY.md", *DOCS.rglob("*.md"))
}
UPGRADING = TEXT_BY_PATH[DOCS / "upgrading.md"]
OLD, NOW = zip(*re.findall(r"(?m)^\|([^|]*)\|(.*)", UPGRADING), strict=True)
"""What was, and what to write instead."""
ALL = "\n".join([*(text for text in TEXT_BY_PATH.values() if text != UPGRADING), *NOW])
README = TEXT_BY_PATH[ROOT / "README.md"]
EXPORTER = TEXT_BY_PATH[DOCS / "exporter.md"]
ALERTS = TEXT_BY_PATH[DOCS / "alerts.md"]
PROVISIONER = TEXT_BY_PATH[DOCS / "provisioner.md"]
YAML = [
    re.sub(f"(?m)^{indent}", "", body)
    for text in TEXT_BY_PATH.values()
    for indent, body in re.findall(r"( *)```yaml\n(.*?)```", text, flags=re.DOTALL)
]
NAMED: list[str] = [
    body
    for text in TEXT_BY_PATH.values()
    for body in re.findall(r'(?ms)^```yaml title="[^\n]*\n(.*?)^```', text)
]
"""Files that the reader writes; tests/test_docs_commands.py writes them, too."""
SPECIFICATIONS = [text for text in YAML if text.startswith("name: ")]


def yaml_with(key: str) -> str:
    """Return the first example that begins with a key."""
    found: list[str] = [text for text in (*YAML, *NAMED) if text.startswith(key)]
    return found[0]


def table(text: str, first_header: str) -> dict[str, list[str]]:
    """Return the rows of the table whose first column is headed so, by their first cell."""
    _, _, after = text.partition(f"\n| {first_header} |")
    rows = after.partition("\n\n")[0].splitlines()[2:]
    cells = ([cell.strip().replace("`", "") for cell in row.split("|")[1:-1]] for row in rows)
    return {first: rest for first, *rest in cells}


def check_config(promtool: Path, path: Path, text: str) -> None:
    path.write_text(text)
    checked = subprocess.run(
        [promtool, "check", "config", path], capture_output=True, text=True, check=False
    )
    assert 0 == checked.returncode, checked.stdout + checked.stderr


# All documents


def test_the_references_are_up_to_date() -> None:
    """`make docs` writes them."""
    written = {name: (reference.FOLDER / name).read_text() for name in reference.pages()}

    assert reference.pages() == written


def test_the_readme_is_short() -> None:
    assert 200 >= len(README.splitlines())


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """Every page is in the menu, every link and heading that is linked to exists."""
    if not find_spec("mkdocs"):
        refuse("mkdocs is not installed; `make check` installs it")

    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == built.returncode, built.stderr
    assert (tmp_path / "runbooks/Watchdog.html").exists()
    assert "../runbooks/Watchdog.html" in (tmp_path / "reference/alerts.html").read_text()


def test_every_heading_that_is_linked_to_is_found_on_github() -> None:
    """Its anchors: lower case, no punctuation, hyphens for spaces."""
    anchors_by_path = {
        path.resolve(): {
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"(?m)^#+ (.+)", text)
        }
        for path, text in TEXT_BY_PATH.items()
    }
    links = [
        ((path.parent / link).resolve() if link else path, anchor)
        for path, text in TEXT_BY_PATH.items()
        for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", text)
    ]

    assert 20 < len(links)
    assert [] == [(str(path), one) for path, one in links if one not in anchors_by_path[path]]


def test_every_file_that_is_linked_to_exists() -> None:
    links = [
        path.parent / link
        for path, text in TEXT_BY_PATH.items()
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    ]

    assert 40 < len(links)
    assert [] == [str(link) for link in links if not link.exists()]


def test_every_series_that_is_named_exists() -> None:
    names = {series.name for series in (*catalogue.ALL_SERIES, *PROVISIONER_SERIES)}
    named = set(
        re.findall(
            r"(?<!:)\bollama_(?:fleet|model|node|instance|exporter|provisioner)_\w+[^_\W]", ALL
        )
    )

    assert set() == {
        name for name in named if name not in names and not re.search(f"{name}_", " ".join(names))
    }


def test_what_replaces_an_old_name_exists_and_the_old_name_does_not() -> None:
    """Recorded series and settings; `test_every_series_that_is_named_exists` sees the others."""
    recorded = {rule.name for group in rulebook.groups(Settings()) for rule in group.recordings}
    thresholds = {f"thresholds.{name}" for name in type(Settings().thresholds).model_fields}
    known = {*recorded, *thresholds, *(setting.name for setting in SETTINGS)}
    is_name = re.compile(r"`((?:\w+:\w+:\w+|(?:thresholds|poll|metrics)\.[a-z_-]+))`")
    old, now = (set(is_name.findall("\n".join(column))) for column in (OLD, NOW))

    assert set() == now - known
    assert {"metrics.per-instance"} == old & known


def test_every_command_and_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")

    assert set(re.findall(r"(?m)(?:^|`)ollama-fleet (\w+)", ALL)) <= set(COMMANDS)
    for target in re.findall(r"(?m)(?:^|`)make ([a-z-]+)", ALL):
        assert f"\n{target}:" in makefile


def _commands(group: click.Group) -> Iterator[click.Command]:
    """Yield the commands of a group and of groups in it."""
    for one in group.commands.values():
        if isinstance(one, click.Group):
            yield from _commands(one)
        else:
            yield one


def test_every_option_that_is_named_exists() -> None:
    groups = (
        alerts, capacity, dashboards, exporter, gateway, instances, provisioner, slo, warehouse,
    )  # fmt: skip
    commands = (load, simulate, up, *(one for group in groups for one in _commands(group)))
    known = {
        *(setting.option for setting in SETTINGS),
        *(
            option
            for one in commands
            for parameter in one.params
            for option in (*parameter.opts, *parameter.secondary_opts)
        ),
        *("--check", "--config.file", "--help", "--version"),
        # of other programs
        *("--config.check", "--now", "--read-only"),
        # of LLM servers
        *("--metrics", "--enable-metrics", "--disable-log-stats"),
        # etcd's
        *("--auto-compaction-mode", "--auto-compaction-retention", "--max-request-bytes"),
    }

    assert set() == set(re.findall(r"--[a-z][a-z0-9.-]+[a-z0-9]", ALL)) - known


def test_the_glossary_is_short() -> None:
    rows = re.findall(r"(?m)^\| (?!term|-)", TEXT_BY_PATH[DOCS / "glossary.md"])

    assert 30 >= len(rows)


@pytest.mark.parametrize("page", [DOCS / "architecture.md", CONTRIBUTING], ids=lambda one: one.stem)
def test_every_path_and_name_that_contributors_are_sent_to_exists(page: Path) -> None:
    """`path/to/file.py`, `path/to/folder/`, or `path/to/file.py:name`."""
    text = TEXT_BY_PATH[page]
    named = re.findall(r"`((?:[\w.]+/)+(?:[\w]+\.py)?)(?::(\w+))?`", text)

    assert 20 < len(named)
    assert [] == [path for path, _ in named if "NAME" not in path and not (ROOT / path).exists()]
    assert [] == [
        (path, name)
        for path, name in named
        if name
        and not re.search(rf"(?m)^ *(?:async def|def|class) {name}\b", (ROOT / path).read_text())
    ]


def test_each_thing_to_add_takes_five_steps() -> None:
    """An engine, a series, an alert, a panel, an inventory source."""
    steps = [section.count("\n1.") for section in TEXT_BY_PATH[CONTRIBUTING].split("\n## ")[1:]]
    last = re.findall(r"(?m)^(\d)\. .*(?:\n   .*)*\n*(?:\n## |\Z)", TEXT_BY_PATH[CONTRIBUTING])

    assert [1] * 5 == steps
    assert ["5"] * 5 == last


def test_troubleshooting_knows_the_messages_that_are_printed() -> None:
    """Messages of others say whose they are; a message of ours is in the code, `…` for values."""
    source = " ".join(
        string
        for folder in ("alerts", "dashboards", "exporter", "ollama_fleet", "provisioning")
        for path in (ROOT / folder).rglob("*.py")
        for string in strings(path)
    )
    cells = [
        cell
        for cell in re.findall(r"(?m)^\| (`[^|]+) \|", TEXT_BY_PATH[DOCS / "troubleshooting.md"])
        if "(of " not in cell
    ]
    said = [
        part
        for cell in cells
        for quoted in re.findall("`([^`]+)`", cell)
        for part in quoted.split("…")
    ]

    assert 25 < len(cells)
    assert [] == [part for part in said if part.strip() not in source]


def strings(path: Path) -> list[str]:
    """Return the string constants of a file, those within f-strings too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_the_comparison_has_yes_or_the_reason_in_every_row_of_ours() -> None:
    rows = table(TEXT_BY_PATH[DOCS / "compared.md"], "expected")

    assert 10 < len(rows)
    assert [] == [what for what, cells in rows.items() if not cells[0].startswith(("yes", "no: "))]


def test_issue_templates_are_forms_with_something_to_fill_in() -> None:
    folder = ROOT / ".github/ISSUE_TEMPLATE"
    forms = {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("*.yml")}
    del forms["config"]

    assert {"alert", "bug", "idea"} == set(forms)
    assert all({"name", "description", "body"} == set(form) for form in forms.values())


def test_the_deployment_gives_options_and_asks_for_paths_that_exist() -> None:
    documents = [
        one for text in YAML if "kind: Deployment" in text for one in yaml.safe_load_all(text)
    ]
    (container,) = documents[0]["spec"]["template"]["spec"]["containers"]
    command, *options = container["args"]
    probed = {container[f"{one}Probe"]["httpGet"]["path"] for one in ("liveness", "readiness")}

    scraped = "{name}.{namespace}.svc".format(**documents[1]["metadata"])
    assert command in COMMANDS
    assert f"--web.allowed-hosts={scraped}" in options
    assert f'["{scraped}:11440"]' in TEXT_BY_PATH[DOCS / "how-to" / "kubernetes.md"]
    assert {one.partition("=")[0] for one in options} <= {one.option for one in SETTINGS}
    assert probed <= {*PATHS}
    assert documents[1]["spec"]["selector"] == documents[0]["spec"]["selector"]["matchLabels"]


# The exporter


def test_every_endpoint_outcome_engine_and_status_that_is_not_missed_is_documented() -> None:
    target = Target("a", "127.0.0.1", 1)
    outcomes = table(EXPORTER, "outcome")
    rows = table(TEXT_BY_PATH[DOCS / "engines.md"], "engine")

    assert {*PATHS, "/"} == set(table(EXPORTER, "endpoint"))
    assert {str(one): str(polled_status(target, reading(one), None)) for one in Outcome} == {
        name: cells[0] for name, cells in outcomes.items()
    }
    assert {engine.name for engine in ENGINES} == set(rows)
    assert {*map(str, NOT_EXPECTED)} == set(table(EXPORTER, "status"))


def test_the_boundaries_of_histograms_are_ours() -> None:
    (listed,) = re.findall(r"histogram, which are ([\d., \nand]+) seconds", EXPORTER)

    assert list(BOUNDARIES_S) == [float(number) for number in re.findall(r"[\d.]+", listed)]


async def test_the_example_of_an_inventory_is_read(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    path.write_text(yaml_with("- id:"))
    inventory = Inventory(sources_for([str(path)]))

    await inventory.load()
    await inventory.close()

    assert ["llm-0001", "llm-0002"] == [target.id for target in inventory.targets]


def test_the_service_discoveries_and_the_rights_they_need_are_as_shown() -> None:
    shown = TEXT_BY_PATH[DOCS / "inventory.md"]
    urls = re.findall(r"^\| `(\S+://\S+)`", shown, flags=re.MULTILINE)
    (manifest,) = [text for text in YAML if "kind: Role\n" in text]
    (rules,) = [one["rules"] for one in yaml.safe_load_all(manifest) if one["kind"] == "Role"]
    granted = {(rule["apiGroups"][0], *rule["resources"]) for rule in rules}

    assert urls == [source.name for source in sources_for(urls)]
    assert {"k8s", "consul", "dns+srv", "dns+a"} == {url.split(":")[0] for url in urls}
    paths = [parse_query(url).path.split("/") for url in urls if url.startswith("k8s")]
    assert {(path[2] if path[1] == "apis" else "", path[-1]) for path in paths} == granted
    assert all(["list"] == rule["verbs"] for rule in rules)


def test_prometheus_accepts_the_scrape_configurations(
    promtool_binary: Path, tmp_path: Path
) -> None:
    texts = [text for text in YAML if text.startswith("scrape_configs")]
    jobs = [job for text in texts for job in yaml.safe_load(text)["scrape_configs"]]
    of_exporter, of_provisioner, of_gateway = sorted(
        jobs, key=lambda job: ("exporter", "provisioner", "gateway").index(job["job_name"][13:])
    )
    listen_address = next(item.default for item in SETTINGS if "web.listen-address" == item.name)
    expected = Settings().prometheus

    for text in texts:
        check_config(promtool_binary, tmp_path / "prometheus.yml", text)
    assert of_exporter["honor_labels"]
    assert [{"targets": [listen_address]}] == of_exporter["static_configs"]
    assert expected.provisioner_job == of_provisioner["job_name"] == PROVISIONER_JOB
    assert expected.gateway_job == of_gateway["job_name"]
    for job in (of_provisioner, of_gateway):
        assert duration_text(expected.scrape_interval) == job["scrape_interval"]
        assert [expected.cluster_label] == list(job["static_configs"][0]["labels"])


def test_the_web_configuration_is_accepted(tmp_path: Path) -> None:
    text = yaml_with("tls_server_config").replace("  # client", "  client")

    config = webconfig.parse(text.encode(), tmp_path / "web.yml")

    assert config.tls is not None
    assert (tmp_path / "server.crt", ssl.CERT_REQUIRED) == (
        config.tls.cert_file,
        config.tls.verify_mode,
    )
    assert bcrypt.checkpw(b"example", config.users["prometheus"])
    assert "the password is `example`" in text


def test_three_provisioners_are_one_inventory(tmp_path: Path) -> None:
    path = tmp_path / "exporter.yml"
    path.write_text(yaml_with("inventory: "))

    given, faults = read_file(path)
    config = build(given, faults=faults)

    (inventory,) = config.inventory
    assert [inventory] == [source.name for source in sources_for([inventory])]
    assert 3 == len(urls_of(inventory))


# The alerts


def test_the_readme_counts_the_alerts() -> None:
    names = {alert.name for group in rulebook.groups(Settings()) for alert in group.alerts}

    assert f"holds {len(names)} [alerts]" in README


def test_the_example_of_alert_settings_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "alerts.yml"
    path.write_text(yaml_with("thresholds:"))

    settings = alerts_config.load(path)

    assert Settings().thresholds == settings.thresholds
    assert 1 == len(settings.routing.page)
    assert 2 == len(settings.routing.ticket)
    assert "OllamaFleetQueueSaturated" in settings.alerts


# The provisioner


def test_the_rules_know_the_provisioners_series_as_they_are_published() -> None:
    published = {
        (family.name, family.type)
        for family in Metrics(SystemClock()).registry.collect()
        if family.name.startswith("ollama_")
    }

    assert published == {(one.name.removesuffix("_total"), one.kind) for one in PROVISIONER_SERIES}


@pytest.mark.parametrize("text", SPECIFICATIONS)
def test_a_specification_that_is_shown_is_accepted(text: str, tmp_path: Path) -> None:
    (tmp_path / "developers.txt").write_text("ada\nbob\n")
    (tmp_path / "fleet.yml").write_text(text)

    assert load_fleet(tmp_path / "fleet.yml").pools


def test_the_provisioners_files_variables_and_names_are_documented() -> None:
    settings = containers.Settings()
    unit = provisioner_unit(Path("/opt/ollama-fleet"))
    token = f"{STATE_DIR}/provisioner.token"
    user = USER
    *most, last = (f"`{model.name}`" for model in MODELS)

    assert f"Environment={variable_of('web.token-file')}={token}\n" in unit
    for text in (
        f"`{AGE_HEADER}`",
        f"`{settings.log_dir}/FLEET/ID.log`",
        f"`{namespace_of('FLEET')}`",
        f"`ctr -n {namespace_of('rack1')} images import ",
        f"`{settings.registries_dir}/HOST/hosts.toml`",
        f"\ninstall -o {user} -g {user} -m 600 provisioner.token {token}\n",
        f"`{TOKEN_OPTION}`",
        f"`{PREFIX}PROVISIONER_TOKEN_FILE`",
        f"`{PREFIX}PROVISIONER_URL`",
        f"\n{variable_of('nodes.ca-file')}={CLIENT_DIR}/authority.pem\n",
        f"\n{variable_of('nodes.certificate-file')}={CLIENT_DIR}/certificate.pem\n",
        f"\n{variable_of('nodes.key-file')}={CLIENT_DIR}/key.pem\n",
        f"`{node_setup.UNIT}`",
    ):
        assert text in PROVISIONER
    assert f"{', '.join(most)} or {last}." in " ".join(ALL.split())


def variable_of(option: str) -> str:
    """Return the environment variable of an option of `provisioner run`."""
    (found,) = [one.variable for one in OPTIONS if one.name == option]
    return found

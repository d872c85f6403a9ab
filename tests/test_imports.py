"""Who may import whom, read from the imports of every file of the tree."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ollama_fleet", "exporter", "dashboards", "alerts", "provisioning")
SHARED = "ollama_fleet"
"""What every package may import; itself it imports the others' commands only when they run."""
DEMO = "provisioning.demo"
"""What nothing imports but itself, the tests and the benchmarks: its command is imported lazily."""

ALLOWED = {
    "exporter": ("exporter",),
    "provisioning": ("provisioning",),
    # Dashboards show what the rules record, by the names and turns of phrase of the rules.
    "dashboards": (
        "dashboards",
        "exporter.catalogue",
        "alerts.names",
        "alerts.promql",
        "alerts.series",
    ),
    "alerts": ("alerts", "exporter.catalogue"),
}
"""For each package, what of ours it may import. Other distributions are not looked at."""


def imports(source: str, module: str, *, is_package: bool = False) -> Iterator[str]:
    """Yield every module that a source imports, relative imports resolved.

    `from a import b` gives `a.b`: whether b is a module or a name of a, a is what is imported from.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, module, is_package=is_package)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def _origin(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + is_package]
    return ".".join([*base, *([node.module] if node.module else [])])


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return what a source imports of ours without being allowed to."""
    allowed = (*ALLOWED.get(module.split(".")[0], ()), SHARED)
    barred = () if _is_within(module, (DEMO,)) else (DEMO,)
    ours = (*PACKAGES, "tests", "bench")
    return [
        imported
        for imported in imports(source, module, is_package=is_package)
        if _is_within(imported, ours)
        and (not _is_within(imported, allowed) or _is_within(imported, barred))
    ]


def _is_within(imported: str, packages: tuple[str, ...]) -> bool:
    return any(f"{imported}.".startswith(f"{package}.") for package in packages)


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    found = {
        str(path.relative_to(ROOT)): wrong
        for path in files_of(package)
        if (wrong := violations(
            path.read_text(), module_of(path), is_package=path.name == "__init__.py"
        ))
    }  # fmt: skip

    assert {} == found


def test_the_catalogue_imports_the_standard_library_only() -> None:
    outside = {
        name
        for path in files_of("exporter/catalogue")
        for name in imports(path.read_text(), module_of(path))
        if name.split(".")[0] not in sys.stdlib_module_names
        and not _is_within(name, ("exporter.catalogue",))
    }

    assert set() == outside


def test_importing_the_exporter_package_imports_nothing() -> None:
    """So that dashboards and alerts get the catalogue, and not aiohttp with it."""
    assert [] == list(imports((ROOT / "exporter" / "__init__.py").read_text(), "exporter"))


def test_every_folder_with_code_is_a_package() -> None:
    """Without its __init__.py, `import exporter` in a test finds the test folder."""
    folders = {path.parent for package in (*PACKAGES, "tests") for path in files_of(package)}

    assert [] == sorted(
        str(folder.relative_to(ROOT))
        for folder in folders
        if not (folder / "__init__.py").is_file()
    )


# The checker itself


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("alerts.rules", "import exporter.poller", ["exporter.poller"]),
        ("alerts.rules", "import exporter", ["exporter"]),
        ("alerts.rules", "from exporter import poller", ["exporter.poller"]),
        ("alerts.rules", "from exporter.model import Target", ["exporter.model.Target"]),
        ("alerts.rules", "from dashboards import kit", ["dashboards.kit"]),
        ("dashboards.kit", "from exporter import catalogue, model", ["exporter.model"]),
        ("dashboards.kit", "def f():\n    import alerts.slo", ["alerts.slo"]),
        ("dashboards.nodes", "from alerts import names, settings", ["alerts.settings"]),
        ("exporter.app", "from provisioning import api", ["provisioning.api"]),
        (
            "provisioning.simulator.app",
            "if TYPE_CHECKING:\n    from exporter.model import Target",
            ["exporter.model.Target"],
        ),
        ("exporter.app", "import tests.waiting", ["tests.waiting"]),
        ("exporter.app", "from bench import bench", ["bench.bench"]),
        ("ollama_fleet.tables", "from exporter import catalogue", ["exporter.catalogue"]),
        ("ollama_fleet.tables", "def f():\n    import alerts.cli", ["alerts.cli"]),
        ("dashboards.build", "from alerts import errors", ["alerts.errors"]),
        ("provisioning.app", "from provisioning.demo import ports", ["provisioning.demo.ports"]),
        ("exporter.app", "from ..alerts import slo", ["alerts.slo"]),
    ],
)
def test_the_checker_finds_what_is_not_allowed(
    module: str, source: str, expected: list[str]
) -> None:
    assert expected == violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("alerts.rules", "from exporter import catalogue\nfrom exporter.catalogue import Series"),
        ("alerts.rules", "import alerts.slo, exporter.catalogue, yaml"),
        ("exporter.app", "from exporter.model import Target\nimport aiohttp"),
        ("exporter.app", "from . import model\nfrom .model import Target"),
        ("exporter.app", "import exporters, tests_of_others"),
        ("provisioning.demo.app", "from provisioning.demo import ports"),
        ("provisioning.demo.app", "from ollama_fleet import logs"),
    ],
)
def test_the_checker_lets_pass_what_is_allowed(module: str, source: str) -> None:
    assert [] == violations(source, module)


def test_relative_imports_of_a_package_begin_at_the_package() -> None:
    assert ["exporter.inventory.merge"] == list(
        imports("from . import merge", "exporter.inventory", is_package=True)
    )
    assert ["exporter.inventory.merge"] == list(
        imports("from . import merge", "exporter.inventory.merge")
    )

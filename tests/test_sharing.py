"""How the tests are shared out between workers."""

from __future__ import annotations

import pytest

from tests.sharing import LIVE, put_live_first, scope_of


class Case(pytest.Item):
    """A test that has only a name."""

    def runtest(self) -> None:
        """Do nothing."""


def test_end_to_end_tests_go_to_two_workers() -> None:
    demo, rules = (scope_of(f"tests/e2e/test_{name}.py::test_a") for name in ("demo", "rules"))
    chaos = scope_of("tests/e2e/test_provisioner_chaos.py::test_a")

    assert demo == rules != chaos
    assert {demo, chaos} == set(LIVE)


def test_a_file_goes_to_one_worker() -> None:
    path = "tests/alerts/test_rules.py"

    assert path == scope_of(f"{path}::test_a[x::y]") == scope_of(f"{path}::TestA::test_b")


def test_end_to_end_tests_come_first_and_order_stays_otherwise(
    request: pytest.FixtureRequest,
) -> None:
    paths = ["tests/b.py", "tests/e2e/z.py", "tests/a.py", "tests/e2e/y.py"]
    items: list[pytest.Item] = [
        Case.from_parent(request.session, name=path, nodeid=path) for path in paths
    ]

    put_live_first(items)

    assert ["tests/e2e/z.py", "tests/e2e/y.py", "tests/b.py", "tests/a.py"] == [
        item.nodeid for item in items
    ]

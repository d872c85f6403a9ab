"""The rules of each profile that differ from the default ones, near the limits that differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from alerts.config import PROFILES
from tests.alerts import limits, promtool
from tests.alerts.promtool import Rule


def rules_of(profile: str) -> tuple[Rule, ...]:
    return promtool.read_rules(promtool.RULES / profile)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_alerts_of_a_profile_begin_where_its_settings_say(
    profile: str, promtool_binary: Path, tmp_path: Path
) -> None:
    file = limits.limits_of(profile)
    rules = [rule for rule in rules_of(profile) if rule.name not in file.fed]
    seen = promtool.foundations(file.mentioned, rules)

    written = promtool.write(tmp_path, [one for one in rules if one.name in seen], file.document)
    result = promtool.run(promtool_binary, written)

    assert 0 == result.returncode, result.stdout


@pytest.mark.parametrize("profile", PROFILES)
def test_every_rule_that_differs_has_a_test_near_its_limit(profile: str) -> None:
    differing = {rule.name for rule, _ in limits.differing(rules_of(profile))}
    tested = {name for file in limits.tests_of(profile) for name in file.mentioned}

    assert not differing - tested
    assert not {each.name for each in limits.LIMITS[profile]} - differing

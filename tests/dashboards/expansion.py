"""What a dashboard asks Prometheus, with the variables filled in as Grafana fills them in.

To ask everything that a dashboard asks:

    chosen = choices(document, node=["node-1", "node-2"], instance_id="node-1:8001")
    for asked in queries(document, board.may_be_empty):
        expr = expanded(asked.expr, chosen, asked.step_s(range_s), range_s)

What is not named to `choices` is as the dashboard opens: All, or its first choice. A variable
without All has no first choice before Grafana has asked for its values: it must be named.

A panel whose queries share the work, such as one for good and one for bad, claims that any of them
gives data, so emptiness is a matter of the panel: group by `panel_id`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

VARIABLE = re.compile(
    r"\$\{(?P<braced>\w+)(?::(?P<form>\w+))?\}|\[\[(?P<bracketed>\w+)(?::(?P<old>\w+))?\]\]"
    r"|\$(?P<bare>\w+)"
)
LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), *(?P<label>\w+)\)", re.DOTALL)
SPECIAL = re.compile(r"[$^*{}\[\]'+?.()|]")
ROUND_S = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 21600)
"""Steps that Grafana rounds to, whichever is nearer."""
SCRAPE_INTERVAL_S = 15.0
ANNOTATION_POINTS = 60
ALL = "$__all"


class UnknownVariableError(Exception):
    """A query names what the dashboard lacks: Grafana would send the name itself."""


class Origin(StrEnum):
    """Where in a dashboard a query stands."""

    PANEL = "panel"
    VARIABLE = "variable"
    ANNOTATION = "annotation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One query of a dashboard, its variables not yet filled in."""

    uid: str
    """Of the dashboard."""
    origin: Origin
    title: str
    """Of the panel; the name of a variable or annotation."""
    expr: str
    """PromQL; of a variable the selector of the series whose labels it lists."""
    panel_id: int = 0
    panel_type: str = ""
    ref_id: str = ""
    legend: str = ""
    label: str = ""
    """Of a variable: whose values it lists."""
    is_instant: bool = False
    """Asked for the end of the time range, rather than for each step of it."""
    max_points: int = ANNOTATION_POINTS
    may_be_empty: bool = False
    """Whether it is well if the panel has nothing to show."""

    def step_s(self, range_s: float, scrape_interval_s: float = SCRAPE_INTERVAL_S) -> float:
        """Return `$__interval`: a round number of seconds, and never below the scrape interval."""
        exact = range_s / self.max_points
        # Halfway between two it is the longer one.
        rounded = min(reversed(ROUND_S), key=lambda step: abs(step - exact))
        return max(float(rounded), scrape_interval_s)

    def __str__(self) -> str:
        return f"{self.uid} / {self.title} {self.ref_id}".rstrip()


@dataclass(frozen=True, slots=True)
class Choice:
    """What is chosen for one variable."""

    values: tuple[str, ...]
    is_expression: bool
    """Whether Grafana writes it as a regular expression: it has All, or takes several."""
    raw: str | None = None
    """What All stands for, written as it is."""

    def text(self, form: str | None) -> str:
        """Return what a query gets, as Grafana's Prometheus data source writes it."""
        if self.raw is not None:
            return self.raw
        if form == "raw":
            return self.values[0] if len(self.values) == 1 else "{" + ",".join(self.values) + "}"
        if form == "regex" or self.is_expression:
            escaped = [_escaped(value, in_string=form != "regex") for value in self.values]
            return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
        return self.values[0].replace("\\", "\\\\").replace('"', '\\"')


def _escaped(value: str, *, in_string: bool) -> str:
    r"""Return a value as an expression that matches just that; `\` twice within PromQL's quotes."""
    mark = "\\\\" if in_string else "\\"
    return SPECIAL.sub(lambda found: mark + found[0], value.replace("\\", mark * 2))


def queries(document: Mapping[str, Any], may_be_empty: Collection[int] = ()) -> list[Asked]:
    """Return everything that a dashboard asks: panels, folded ones too, variables, annotations.

    Args:
        document: The JSON of the dashboard.
        may_be_empty: Ids of panels for which it is no fault to have nothing to show; the board
            knows them (`Board.may_be_empty`).
    """
    return [
        *(
            asked
            for panel in panels(document)
            for asked in _of_panel(document["uid"], panel, panel["id"] in may_be_empty)
        ),
        *_of_variables(document),
        *_of_annotations(document),
    ]


def panels(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every panel that shows something, also those in collapsed rows."""
    for panel in document["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def _of_panel(uid: str, panel: Mapping[str, Any], may_be_empty: bool) -> Iterator[Asked]:
    for target in panel["targets"]:
        yield Asked(
            uid=uid,
            origin=Origin.PANEL,
            title=panel["title"],
            expr=target["expr"],
            panel_id=panel["id"],
            panel_type=panel["type"],
            ref_id=target["refId"],
            legend=target["legendFormat"],
            is_instant=target["instant"],
            max_points=panel["maxDataPoints"],
            may_be_empty=may_be_empty,
        )


def _of_variables(document: Mapping[str, Any]) -> Iterator[Asked]:
    for variable in document["templating"]["list"]:
        if variable["type"] != "query":
            continue
        query = variable["query"]["query"]
        found = LABEL_VALUES.fullmatch(query)
        if found is None:
            raise ValueError(f"{document['uid']}: {variable['name']}: not label_values: {query}")
        yield Asked(
            uid=document["uid"],
            origin=Origin.VARIABLE,
            title=variable["name"],
            expr=found["selector"],
            label=found["label"],
            is_instant=True,
        )


def _of_annotations(document: Mapping[str, Any]) -> Iterator[Asked]:
    for annotation in document["annotations"]["list"]:
        if not annotation.get("builtIn"):
            yield Asked(
                uid=document["uid"],
                origin=Origin.ANNOTATION,
                title=annotation["name"],
                expr=annotation["expr"],
                legend=annotation["titleFormat"],
                may_be_empty=True,
            )


def choices(document: Mapping[str, Any], **chosen: str | Sequence[str]) -> dict[str, Choice]:
    """Return what each variable of a dashboard stands for.

    Args:
        document: The JSON of the dashboard.
        chosen: By variable a value or several; those that are not named are as the dashboard opens.
    """
    known = {variable["name"]: variable for variable in document["templating"]["list"]}
    if strange := chosen.keys() - known.keys():
        raise UnknownVariableError(f"{document['uid']} has no {', '.join(sorted(strange))}")
    found = {name: _choice(variable, chosen.get(name)) for name, variable in known.items()}
    return {name: choice for name, choice in found.items() if choice is not None}


def _choice(variable: Mapping[str, Any], chosen: str | Sequence[str] | None) -> Choice | None:
    if chosen is None:
        chosen = variable.get("current", {}).get("value")
    if chosen is None:
        return None
    values = (chosen,) if isinstance(chosen, str) else tuple(chosen)
    if values == (ALL,):
        return Choice((), True, raw=variable["allValue"])
    return Choice(values, bool(variable.get("multi") or variable.get("includeAll")))


def expanded(
    expr: str,
    variables: Mapping[str, Choice],
    interval_s: float,
    range_s: float,
    *,
    scrape_interval_s: float = SCRAPE_INTERVAL_S,
) -> str:
    """Return a query as Grafana sends it.

    Args:
        expr: With `$name`, `${name}`, `${name:regex}` or `[[name]]`.
        variables: Of the dashboard, from `choices`.
        interval_s: `$__interval`: the step, see `Asked.step_s`.
        range_s: `$__range`: how long the time range is.
        scrape_interval_s: As the data source has it; `$__rate_interval` depends on it.

    Raises:
        UnknownVariableError: The query names a variable that has no value.
    """
    own = _own(interval_s, range_s, scrape_interval_s)

    def filled(found: re.Match[str]) -> str:
        name = found["braced"] or found["bracketed"] or found["bare"]
        if name in own:
            return own[name]
        if name not in variables:
            raise UnknownVariableError(f"nothing is chosen for ${name}: {expr}")
        return variables[name].text(found["form"] or found["old"])

    return VARIABLE.sub(filled, expr)


def _own(interval_s: float, range_s: float, scrape_interval_s: float) -> dict[str, str]:
    """Return Grafana's own variables."""
    rate_s = max(interval_s + scrape_interval_s, 4 * scrape_interval_s)
    spans = {"__interval": interval_s, "__range": range_s, "__rate_interval": rate_s}
    return {
        **{name: f"{round(span_s)}s" for name, span_s in spans.items()},
        **{f"{name}_ms": str(round(1000 * span_s)) for name, span_s in spans.items()},
        "__range_s": str(round(range_s)),
    }

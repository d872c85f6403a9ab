"""Tables for a terminal: the alerts, and what they can do in a live Prometheus."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence

from alerts import rulebook
from alerts.check import Answer, Checked, Result
from alerts.settings import Settings
from ollama_fleet.durations import duration_text
from ollama_fleet.tables import count_text, table

DIFFERS = (
    "DIFFERS FROM WHAT IS LOADED (give the settings that it was built with: --config-file, --set)"
)
NOTHING_LOADED = (
    "no rule is loaded: add the built rules/*.yml to Prometheus' rule_files, and reload it"
)


def listing(settings: Settings) -> str:
    """Return a line per alert."""
    alerts = [alert for group in rulebook.groups(settings) for alert in group.alerts]
    rows = [
        (alert.name, str(alert.severity), duration_text(alert.for_s), alert.summary)
        for alert in alerts
    ]
    return table(("ALERT", "SEVERITY", "FOR", "SUMMARY"), rows)


def checked(result: Result, *, is_all: bool = False) -> str:
    """Return a summary, and a line for each alert below the answer that it got."""
    parts = [_summary(result), *result.mixed_up]
    sections = (
        *_refused(result),
        *_different(result),
        *_firing(result),
        *_impossible(result),
        ("CAN FIRE HERE", _rows(result.answered(Answer.CAN))),
        *(_recording(result) if is_all else ()),
    )
    parts += (f"{head}\n{rows}" for head, rows in sections if rows)
    return "\n\n".join((*parts, _cost(result)))


Section = tuple[str, str]


def _summary(result: Result) -> str:
    n_can, n_never, n_fire = (
        sum(alert.answer is answer for alert in result.alerts)
        for answer in (Answer.CAN, Answer.NEVER, Answer.FIRES)
    )
    text = (
        f"{n_can} of {count_text(len(result.alerts), 'alert')} can fire here, {n_never} never can, "
        f"{n_fire} {'fires' if n_fire == 1 else 'fire'} now"
    )
    if n_refused := len(result.answered(Answer.REFUSED)):
        text += f"; Prometheus refuses {count_text(n_refused, 'expression')}"
    if not result.is_any_loaded:
        return f"{text}; {NOTHING_LOADED}"
    n = len(result.different) + len(result.unknown)
    differ = "differs" if n == 1 else "differ"
    return f"{text}; {n} {differ} from what is loaded" if n else text


def _refused(result: Result) -> Iterator[Section]:
    refused = result.answered(Answer.REFUSED)
    yield "REFUSED BY PROMETHEUS", _rows(refused, lambda rule: rule.error)


def _different(result: Result) -> Iterator[Section]:
    if result.is_any_loaded:
        unknown = "\n".join(f"  {title}  is loaded, and unknown here" for title in result.unknown)
        rows = _rows(result.different, lambda rule: rule.difference)
        yield DIFFERS, "\n".join(filter(None, (rows, unknown)))


def _firing(result: Result) -> Iterator[Section]:
    rows = _rows(result.answered(Answer.FIRES), lambda rule: count_text(rule.n_results, "result"))
    yield "FIRES NOW", rows


def _impossible(result: Result) -> Iterator[Section]:
    """Yield the alerts that lack something, below what they lack."""
    never = result.answered(Answer.NEVER)
    blocks = [
        _indented("\n".join((*because, _rows([one for one in never if one.because == because]))))
        for because in dict.fromkeys(alert.because for alert in never)
    ]
    yield "CAN NEVER FIRE HERE, because there is", "\n".join(blocks)


def _recording(result: Result) -> Iterator[Section]:
    records = result.answered(Answer.RECORDS)
    yield "RECORDS", _rows(records, lambda rule: f"{rule.n_results:,} series")


def _rows(rules: Sequence[Checked], remark: Callable[[Checked], str] = lambda _: "") -> str:
    cells = [(rule.title, rule.severity or "record", remark(rule)) for rule in rules]
    return _indented(table(cells[0], cells[1:])) if cells else ""


def _indented(text: str) -> str:
    return textwrap.indent(text, "  ")


def _cost(result: Result) -> str:
    return (
        f"{count_text(len(result.rules), 'rule')} take {1000 * result.evaluation_s:.0f} ms and "
        f"record {result.n_recorded:,} series"
    )

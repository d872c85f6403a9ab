"""Tables for a terminal: the alerts, and what they can do in a live Prometheus."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence

from alerts import backtest, rulebook
from alerts.archive import Span
from alerts.backtest import Backtested, Verdict
from alerts.check import Answer, Checked, Result
from alerts.model import Severity
from alerts.proposals import LEAST_S
from alerts.settings import Settings
from ollama_fleet.durations import duration_text
from ollama_fleet.tables import count_text, table

WIDTH = 100
REFUSED, FIRING = URGENT = "REFUSED BY PROMETHEUS", "FIRES NOW"
DIFFERS = (
    "DIFFERS FROM WHAT IS LOADED (give what it was built with: --profile, --config.file, --set)"
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


def checked(result: Result, *, is_all: bool = False, paint: Callable[[str], str] = str) -> str:
    """Return a summary, and a line for each alert below the answer that it got."""
    parts = [_summary(result), *result.mixed_up]
    sections = (
        *_refused(result),
        *_different(result),
        *_firing(result),
        ("FIRES, AS IT SHOULD", _rows(result.answered(Answer.ALWAYS))),
        *_impossible(result),
        ("CAN FIRE HERE", _rows(result.answered(Answer.CAN))),
        *(_recording(result) if is_all else ()),
    )
    parts += (
        "\n".join(map(paint if head in URGENT else str, f"{head}\n{rows}".splitlines()))
        for head, rows in sections
        if rows
    )
    return "\n\n".join((*parts, _cost(result)))


Section = tuple[str, str]


def _summary(result: Result) -> str:
    n_can, n_never, n_fire = (
        sum(alert.answer in answers for alert in result.alerts)
        for answers in ((Answer.CAN, Answer.ALWAYS), (Answer.NEVER,), (Answer.FIRES,))
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
    yield REFUSED, _rows(refused, lambda rule: rule.error)


def _different(result: Result) -> Iterator[Section]:
    if result.is_any_loaded:
        unknown = "\n".join(f"  {title}  is loaded, and unknown here" for title in result.unknown)
        rows = _rows(result.different, lambda rule: rule.difference)
        yield DIFFERS, "\n".join(filter(None, (rows, unknown)))


def _firing(result: Result) -> Iterator[Section]:
    rows = _rows(result.answered(Answer.FIRES), lambda rule: count_text(rule.n_results, "result"))
    yield FIRING, rows


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


def backtested(found: Sequence[Backtested], *, since_s: float, now_s: float) -> str:
    """Return the notifications of a week, a line for each alert that fired, and what is unknown."""
    step = duration_text(Span.until(now_s, since_s).step_s)
    longest_s = max((one.history_s for one in found), default=0.0) // 3600 * 3600
    head = f"{duration_text(longest_s)} of history, a point each {step}: {_weekly(found)}"
    sections = (
        *_fired(found),
        ("CANNOT BE JUDGED", _unjudged(found)),
    )
    parts = (f"{title}\n{rows}" for title, rows in sections if rows)
    return "\n\n".join((head, *parts, _others(found)))


def _weekly(found: Sequence[Backtested]) -> str:
    pages, tickets = (
        backtest.per_week(found, severity) for severity in (Severity.CRITICAL, Severity.WARNING)
    )
    if pages is None:
        return f"too short for pages a week, which take {duration_text(LEAST_S)} of recorded series"
    return f"{pages:.1f} pages and {tickets or 0:.1f} tickets a week"


def _fired(found: Sequence[Backtested]) -> Iterator[Section]:
    for severity, title in ((Severity.CRITICAL, "PAGES"), (Severity.WARNING, "TICKETS")):
        fired = [one for one in found if one.severity is severity and one.verdict is Verdict.FIRED]
        rows = [_fired_row(one) for one in sorted(fired, key=lambda one: -one.fired.count)]
        head = ("ALERT", "TIMES", "A WEEK", "MINUTES", "MUTED", "HISTORY")
        yield title, _indented(table(head, rows)) if rows else ""


def _fired_row(one: Backtested) -> tuple[str, ...]:
    weekly = "-" if one.per_week is None else f"{one.per_week:.1f}"
    counts = (f"{n:,}" for n in (one.fired.minutes, one.n_muted))
    history = duration_text(one.history_s // 3600 * 3600)
    return (one.alert, f"{one.fired.count:,}", weekly, *counts, history)


def _unjudged(found: Sequence[Backtested]) -> str:
    texts = (
        f"{one.alert} ({one.severity}): {'; '.join(one.because)}"
        for one in found
        if one.verdict is Verdict.UNKNOWN
    )
    return "\n".join(
        textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="    ") for text in texts
    )


def _others(found: Sequence[Backtested]) -> str:
    n_silent, n_never = (
        sum(one.verdict is verdict for one in found) for verdict in (Verdict.SILENT, Verdict.NEVER)
    )
    return (
        f"{count_text(n_silent, 'other')} would not have fired; {n_never:,} can never fire here: "
        "`ollama-fleet alerts check` says why"
    )

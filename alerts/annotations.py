"""Parts of annotations that ask Prometheus when an alert fires: how many of how many, and where.

They are templates that Prometheus and vmalert expand at each evaluation while an alert is active.
They read recorded series of the alert's own cluster, and say nothing where there are none.
"""

from __future__ import annotations

import re

from alerts.promql import Scope

RECORDED = re.compile(r"\b([a-z_]+:[a-z0-9_]+:[a-z0-9_]+)(\{)?")
MAX_NAMES = 3
"""Of nodes or models in one text: a person looks at a few, the dashboard has all."""
MAX_CHARACTERS = 60
"""Of one such name, which an inventory gives."""
STANDING_OUT = 1.5
"""How many times the mean makes a node or model stand out."""
COUNT = r'printf "%.0f" | reReplaceAll `(\d)(\d{3})$` `$1,$2`'
"""1940 as 1,940; good for counts below a million."""
DURATION, PERCENT, NUMBER = "humanizeDuration", "humanizePercentage", "humanize"
"""Forms of other values."""
VALUE = f"{{{{ $value | {COUNT} }}}}"
"""The alert's own value, a count."""
NAME = f'printf "%.{MAX_CHARACTERS}s" | reReplaceAll `[[:cntrl:]]+` ` `'


def count(scope: Scope, expression: str, *labels: str, before: str = "", form: str = COUNT) -> str:
    """Return an expression's value.

    Args:
        scope: How the exporters are scraped.
        expression: A number, or PromQL of recorded series with one result for each cluster.
        labels: Of the alert, besides the cluster's: the series must have the same.
        before: What stands before it, unless there is no result.
        form: How it is written.
    """
    if not RECORDED.search(expression):
        return f"{before}{float(expression):,.0f}"
    asked = _query(scope, expression, *labels)
    return f"{{{{ with {asked} }}}}{before}{{{{ . | first | value | {form} }}}}{{{{ end }}}}"


def most(scope: Scope, what: str, expression: str, *, all_of: str) -> str:
    """Return a sentence with the nodes or models that have far more of something than others.

    Args:
        scope: How the exporters are scraped.
        what: The label by which they differ: `node` or `model`.
        expression: PromQL of recorded series, a count for each of them.
        all_of: A recorded series that exists for each of them, also where the count does not.
    """
    mean = f"scalar(sum({expression}) / count(count by ({what}) ({all_of})))"
    # A single one says nothing of the place where it is.
    found = f"{expression} > 1 > {STANDING_OUT} * {mean}"
    return highest(scope, f"Most on {what}s", what, found, COUNT)


def highest(scope: Scope, words: str, what: str, expression: str, form: str) -> str:
    """Return a sentence with the nodes or models that have the highest values, highest first.

    Args:
        scope: How the exporters are scraped.
        words: What the sentence begins with.
        what: The label by which they differ: `node` or `model`.
        expression: PromQL of recorded series, only of those that are worth a look.
        form: How a value is written.
    """
    return _listed(scope, words, what, f"sort_desc(topk({MAX_NAMES}, {expression}))", form)


def lowest(scope: Scope, words: str, what: str, expression: str, form: str) -> str:
    """Return the same, of the lowest values."""
    return _listed(scope, words, what, f"sort(bottomk({MAX_NAMES}, {expression}))", form)


def _listed(scope: Scope, words: str, what: str, expression: str, form: str) -> str:
    shown = f'{{{{ $s | label "{what}" | {NAME} }}}} ({{{{ $s | value | {form} }}}})'
    items = f"{{{{ range $i, $s := . }}}}{{{{ if $i }}}}, {{{{ end }}}}{shown}{{{{ end }}}}"
    return f"{{{{ with {_query(scope, expression)} }}}} {words} {items}.{{{{ end }}}}"


def _query(scope: Scope, expression: str, *labels: str) -> str:
    """Return the call that asks for an expression's result of the alert's own cluster.

    `%q` quotes any value of a label as PromQL does; a label that is missing is an empty one.
    """
    labels = (scope.cluster_label, *labels)
    own = ", ".join(f"{label}=%[{n}]q" for n, label in enumerate(labels, 1))
    asked = " ".join(expression.replace("%", "%%").split())
    asked = RECORDED.sub(lambda name: f"{name[1]}{{{own}{', ' if name[2] else '}'}", asked)
    return f"query (printf `{asked}` {' '.join(f'$labels.{label}' for label in labels)})"

"""Ask a running exporter for its tiniest page every 5 ms, and say how long answers took.

A process of its own, so that it waits for nothing but the exporter. An event loop that is blocked
answers late: the longest answer bounds the longest blocking from above. Prints one JSON object.
"""

from __future__ import annotations

import http.client
import time

import click
import msgspec

from bench.figures import durations_of
from bench.page import new_connection

TICK_S = 0.005


@click.command()
@click.option("--port", type=int, required=True)
@click.option("--seconds", type=float, required=True)
def main(port: int, seconds: float) -> None:
    """Probe 127.0.0.1:PORT for some seconds."""
    with new_connection(port) as connection:
        answers_s, lateness_s = probe(connection, seconds)
    report = {
        "answers": durations_of(answers_s),
        "own_lateness": durations_of(lateness_s),
        "n": len(answers_s),
    }
    click.echo(msgspec.json.encode(report))


def probe(
    connection: http.client.HTTPConnection, seconds: float
) -> tuple[list[float], list[float]]:
    """Return how long each answer took, and how much too late each question was asked."""
    answers_s, lateness_s = [], []
    due_s = time.perf_counter()
    end_s = due_s + seconds
    while due_s < end_s:
        time.sleep(max(0.0, due_s - time.perf_counter()))
        asked_s = time.perf_counter()
        connection.request("GET", "/-/healthy")
        connection.getresponse().read()
        answered_s = time.perf_counter()
        answers_s.append(answered_s - asked_s)
        lateness_s.append(asked_s - due_s)
        # An answer that took longer than a tick is no lateness of ours.
        due_s = max(due_s + TICK_S, answered_s)
    return answers_s, lateness_s


if __name__ == "__main__":
    main()

"""The page's pure modules, run where they run: in a browser, under the page's own policy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.browser.chromium import opened
from tests.browser.page import FleetPage
from tests.browser.programs import exporter

pytestmark = pytest.mark.asyncio(loop_scope="session")

ROOMS = ([848, 604], [388, 560], [320, 200], [2400, 1300])
FLEETS = ([1], [100] * 100, [3, 0, 250, 1, 17], [1] * 400, [37] * 41, [1000] * 20)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def page(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[FleetPage]:
    run_dir = tmp_path_factory.mktemp("modules")
    inventory = run_dir / "fleet.json"
    inventory.write_text("[]")
    async with exporter(run_dir, inventory) as url, opened(browser, f"{url}/fleet") as page:
        yield page
        assert [] == page.watch.complaints()


async def called(page: FleetPage, module: str, function: str, *given: object) -> Any:
    """Return what an exported function returns."""
    return await page.run(
        "async ([module, name, given]) => (await import(`/fleet/${module}.js`))[name](...given)",
        [module, function, [*given]],
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "not known"),
        (-1, "0 s"),
        (0.4, "0 s"),
        (119.4, "119 s"),
        (120, "2 min"),
        (3_599, "59 min 59 s"),
        (3_600, "1 h"),
        (90_061, "1 d 1 h"),
    ],
)
async def test_a_span_is_told_in_its_two_largest_units(
    seconds: float | None, words: str, page: FleetPage
) -> None:
    assert words == await called(page, "words", "span", seconds)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "not known"), (0.0123, "12.3 ms"), (0.9996, "1,000 ms"), (1.5, "1.5 s"), (0, "0 ms")],
)
async def test_a_latency_is_told_to_three_digits(
    seconds: float | None, words: str, page: FleetPage
) -> None:
    assert words == await called(page, "words", "latency", seconds)


@pytest.mark.parametrize(
    ("before", "now", "sentences"),
    [
        (1, 1, []),
        (0, 1, ["1 instance became unreachable; 1 is now."]),
        (1, 1001, ["1,000 instances became unreachable; 1,001 are now."]),
        (3, 2, ["1 instance is no longer unreachable; 2 are now."]),
        (3, 0, ["3 instances are no longer unreachable; none is now."]),
    ],
)
async def test_changes_are_announced_as_sentences(
    before: int, now: int, sentences: list[str], page: FleetPage
) -> None:
    assert sentences == await called(page, "announcer", "sentencesOf", "unreachable", before, now)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ([], []),
        (["node-1"], ["node-1"]),
        (["node-008", "node-019"], ["…008", "…019"]),
        (["n1.example", "n22.example"], ["…1…", "…22…"]),
        (["a", "b"], ["a", "b"]),
        (["node", "node-2"], ["…", "…-2"]),
    ],
)
async def test_what_names_have_in_common_is_left_out(
    names: list[str], parts: list[str], page: FleetPage
) -> None:
    assert parts == await called(page, "names", "ownParts", names)


@pytest.mark.parametrize(
    ("query", "written"),
    [
        ("", ""),
        ("?value=speed&node=n+1&status=healthy&id=a%26b", None),
        ("?value=nonsense&status=nonsense&other=1", ""),
        ("?value=status", ""),
        ("?model=%3Cb%3E", None),
    ],
)
async def test_an_address_is_read_and_written_alike(
    query: str, written: str | None, page: FleetPage
) -> None:
    """`None`: as it was."""
    view = await called(page, "view", "read", query)

    assert (query if written is None else written) == await called(page, "view", "write", view)


@pytest.mark.parametrize(
    ("value", "step"),
    [(64.9, 0), (65, 1), (70, 1), (79.9, 1), (80, 2), (100, 3), (110, 4), (125, 5), (None, 6)],
)
async def test_a_speed_on_a_limit_belongs_to_the_step_above(
    value: float | None, step: int, page: FleetPage
) -> None:
    found = await page.run(
        """async (value) => {
          const { scaleFor } = await import("/fleet/colours.js");
          return scaleFor("speed", { scheme: "light", latencyLimitSeconds: null }).stepOf(value);
        }""",
        value,
    )

    assert step == found


async def test_the_latency_that_is_allowed_is_a_limit_of_its_colours(page: FleetPage) -> None:
    words = await page.run(
        """async () => {
          const { scaleFor } = await import("/fleet/colours.js");
          const scale = scaleFor("p99", { scheme: "light", latencyLimitSeconds: 0.3 });
          return scale.steps.map((step) => step.words);
        }"""
    )

    assert [
        "under 100 ms", "100 ms – 200 ms", "200 ms – 300 ms", "300 ms – 600 ms", "600 ms – 1.5 s",
        "from 1.5 s", "not known",
    ] == words  # fmt: skip


async def test_every_colour_of_a_cell_stands_out_from_its_background(page: FleetPage) -> None:
    """3:1, as is asked of what is drawn; twice as much as cells that filters leave out have."""
    ratios = await page.run(
        """async () => {
          const { BACKGROUNDS, scaleFor } = await import("/fleet/colours.js");
          const { VALUES } = await import("/fleet/view.js");
          const light = (colour) => [1, 3, 5]
            .map((at) => parseInt(colour.slice(at, at + 2), 16) / 255)
            .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
            .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
          const contrast = (one, other) => {
            const [least, most] = [light(one), light(other)].sort((a, b) => a - b);
            return (most + 0.05) / (least + 0.05);
          };
          const ratios = {};
          for (const scheme of ["light", "dark"]) for (const name of VALUES) {
            for (const { colour } of scaleFor(name, { scheme, latencyLimitSeconds: null }).steps) {
              ratios[`${scheme} ${name} ${colour}`] = contrast(colour, BACKGROUNDS[scheme]);
            }
          }
          return ratios;
        }"""
    )

    assert 60 < len(ratios)
    assert {} == {what: ratio for what, ratio in ratios.items() if ratio < 3}


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("sizes", FLEETS, ids=lambda sizes: f"{len(sizes)} nodes")
async def test_each_cell_has_its_own_place_and_is_found_there(
    sizes: list[int], room: list[int], page: FleetPage
) -> None:
    wrong = await page.run(
        """async ([sizes, [width, height]]) => {
          const { arrange, boxOf, cellAt } = await import("/fleet/layout.js");
          let first = 0;
          const runs = sizes.map((n, node) => ({ node, n, first: (first += n) - n }))
            .filter((run) => run.n > 0);
          const layout = arrange(runs, { width, height });
          const places = new Set();
          const wrong = [];
          for (let cell = 0; cell < first; cell += 1) {
            const { x, y, size } = boxOf(layout, cell);
            places.add(`${x} ${y}`);
            const [right, bottom] = [x + size, y + size];
            const isInside = x >= 0 && y >= 0 && right <= layout.width && bottom <= layout.height;
            const isFound = cell === cellAt(layout, right - 1, bottom - 1);
            if (!isInside || !isFound || !Number.isInteger(x)) wrong.push([cell, x, y]);
          }
          return places.size === first ? wrong : ["places", places.size];
        }""",
        [sizes, room],
    )

    assert [] == wrong


@pytest.mark.parametrize("sizes", FLEETS, ids=lambda sizes: f"{len(sizes)} nodes")
async def test_arrow_keys_reach_every_cell_and_never_go_the_other_way(
    sizes: list[int], page: FleetPage
) -> None:
    wrong = await page.run(
        """async (sizes) => {
          const { arrange, boxOf, neighbour } = await import("/fleet/layout.js");
          let first = 0;
          const runs = sizes.map((n, node) => ({ node, n, first: (first += n) - n }))
            .filter((run) => run.n > 0);
          const layout = arrange(runs, { width: 848, height: 604 });
          const goes = {
            ArrowLeft: (from, to) => to.x <= from.x,
            ArrowRight: (from, to) => to.x >= from.x,
            ArrowUp: (from, to) => to.y <= from.y,
            ArrowDown: (from, to) => to.y >= from.y,
          };
          const [reached, open, wrong] = [new Set([0]), [0], []];
          while (open.length > 0) {
            const cell = open.pop();
            for (const [key, isRight] of Object.entries(goes)) {
              const next = neighbour(layout, cell, key);
              if (!isRight(boxOf(layout, cell), boxOf(layout, next))) wrong.push([key, cell, next]);
              if (!reached.has(next)) open.push(next);
              reached.add(next);
            }
          }
          return reached.size === first ? wrong : ["reached", reached.size, first];
        }""",
        sizes,
    )

    assert [] == wrong

"""The page's pure modules, run where they run: in a browser, under the page's own policy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from exporter.model import Condition, Status
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


async def test_the_page_knows_each_status_and_condition_in_the_order_of_the_bits(
    page: FleetPage,
) -> None:
    known = await page.run(
        """async () => {
          const { CONDITIONS, STATUSES } = await import("/fleet/view.js");
          return [STATUSES, CONDITIONS];
        }"""
    )

    assert [[*Status], [*Condition]] == known


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (4_683_000_000, "4.68 GB"), (1.2e12, "1.2 TB")],
)
async def test_sizes_are_written_as_ollama_writes_them(
    size: float, words: str, page: FleetPage
) -> None:
    assert words == await called(page, "words", "bytes", size)


@pytest.mark.parametrize("room", ROOMS)
async def test_a_small_fleet_fills_the_room_that_there_is(room: list[int], page: FleetPage) -> None:
    """Five instances on each of twelve nodes: at least half of the map's room is theirs."""
    share, size = await page.run(
        """async ([width, height]) => {
          const { arrange } = await import("/fleet/layout.js");
          const runs = Array.from({ length: 12 }, (_, node) => ({ node, n: 5, first: 5 * node }));
          const layout = arrange(runs, { width, height });
          const right = Math.max(...layout.blocks.map(({ x, width }) => x + width));
          return [right * layout.height / (width * height), layout.size];
        }""",
        room,
    )

    assert share > 0.5 or size == 63


@pytest.mark.parametrize(
    ("query", "written"),
    [
        ("", ""),
        ("?value=speed&node=n+1&status=healthy&id=a%26b", None),
        ("?status=healthy&condition=on_cpu", None),
        ("?value=nonsense&status=nonsense&condition=nonsense&other=1", ""),
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


@pytest.mark.parametrize("limit_ms", [150, 300, 1, 1001])
async def test_a_latency_at_its_limit_is_not_painted_as_bad(limit_ms: int, page: FleetPage) -> None:
    """As the figure at the top, which is met at its threshold."""
    are_bad = await page.run(
        """async (limit) => {
          const { scaleFor } = await import("/fleet/colours.js");
          const scale = scaleFor("p99", { scheme: "light", latencyLimitSeconds: limit / 1000 });
          return [limit, limit + 1, null].map((value) => scale.steps[scale.stepOf(value)].isBad);
        }""",
        limit_ms,
    )

    assert [False, True, False] == are_bad


@pytest.mark.parametrize(
    ("statuses", "trouble"),
    [
        ([1, 2, 0, 0], "2 of 4 fail"),
        ([1, 0, 0, 0], ""),
        ([2, 2, 2], "3 of 3 fail"),
        ([2], ""),
        ([3, 3, 3], ""),
    ],
)
async def test_a_node_of_which_half_fails_is_in_trouble(
    statuses: list[int], trouble: str, page: FleetPage
) -> None:
    assert trouble == await _trouble(page, statuses, None)


async def _trouble(page: FleetPage, statuses: list[int], speeds: list[float | None] | None) -> str:
    told: str = await page.run(
        """async ([statuses, speeds]) => {
          const { troubleOf } = await import("/fleet/trouble.js");
          const { scaleFor } = await import("/fleet/colours.js");
          const { STATUSES } = await import("/fleet/view.js");
          const numbers = Float64Array.from(speeds ?? [], (speed) => speed ?? NaN);
          const value = { name: "speed", values: numbers };
          const fleet = { statuses: STATUSES, status: statuses, value };
          const given = { scheme: "light", latencyLimitSeconds: null };
          const scale = scaleFor(speeds === null ? "status" : "speed", given);
          return troubleOf(fleet, { first: 0, n: statuses.length }, scale);
        }""",
        [statuses, speeds],
    )
    return told


async def test_a_map_that_was_repainted_is_as_one_painted_anew(page: FleetPage) -> None:
    """Cells, names and frames alike; of what is not known, only an edge is left."""
    differing, middle, edge = await page.run(
        """async () => {
          const { FleetMap } = await import("/fleet/map.js");
          const { Fleet } = await import("/fleet/fleet.js");
          const { Match } = await import("/fleet/filter.js");
          const { arrange } = await import("/fleet/layout.js");
          const { scaleFor } = await import("/fleet/colours.js");
          const { read } = await import("/fleet/view.js");
          const n = 40;
          const codes = Array.from({ length: n }, (_, cell) => (cell < 20 ? 0 : 1));
          const none = new Array(n).fill(0);
          const id = codes.map((_, cell) => `i${cell}`);
          const cells = { id, node: codes, model: none, developer: none };
          const value = { name: "speed", values: new Array(n).fill(100) };
          const fleet = new Fleet({
            nodes: ["node-1", "node-2"], models: ["m"], developers: [""], statuses: ["healthy"],
            status: none, condition_names: ["stalled"], conditions: { cells: [21], to: [1] },
            cells, value, summary: { slow_nodes: [] },
          });
          const scale = scaleFor("speed", { scheme: "light", latencyLimitSeconds: null });
          const layout = arrange(fleet.runs, { width: 400, height: 300 });
          const match = new Match(fleet, read(""));
          const scene = { fleet, layout, scale, match, scheme: "light" };
          const paint = () => {
            const canvas = document.createElement("canvas");
            const map = new FleetMap(canvas);
            map.paint(scene);
            return { canvas, map };
          };
          const pixels = ({ canvas: { width, height }, canvas }) => {
            const copy = new OffscreenCanvas(width, height);
            const context = copy.getContext("2d", { willReadFrequently: true });
            context.drawImage(canvas, 0, 0);
            return context.getImageData(0, 0, width, height);
          };
          const slow = Array.from({ length: 20 }, (_, at) => 20 + at);
          const set = (cells, to) => fleet.apply({
            status: { cells: [], to: [] },
            conditions: { cells: [], to: [] },
            value: { name: "speed", cells, to: cells.map(() => to) },
            summary: { slow_nodes: [] },
          });
          const repainted = paint();
          const differing = [];
          for (const to of [70, null, 100]) {
            repainted.map.repaint(set(slow, to));
            const [one, other] = [pixels(repainted), pixels(paint())];
            differing.push(one.data.filter((channel, at) => channel !== other.data[at]).length);
          }
          set([0], null);
          const hollow = pixels(paint());
          const { boxOf } = await import("/fleet/layout.js");
          const { x, y, size } = boxOf(layout, 0);
          const colourAt = (x, y) => [...hollow.data.slice(4 * (y * hollow.width + x)).slice(0, 3)];
          return [differing, colourAt(x + (size >> 1), y + (size >> 1)), colourAt(x, y)];
        }"""
    )

    assert [0, 0, 0] == differing
    assert [255, 255, 255] == middle
    assert [0x92] * 3 == edge


async def test_what_a_pointer_passes_over_is_not_looked_up(page: FleetPage) -> None:
    asked = await page.run(
        """async () => {
          const { Lookups } = await import("/fleet/lookups.js");
          const wait = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
          const real = window.fetch;
          const asked = [];
          window.fetch = (url, options) => {
            if (!url.startsWith("/instances")) return real(url, options);
            asked.push(url);
            return Promise.resolve(new Response("[]"));
          };
          let isFound;
          const found = new Promise((done) => (isFound = done));
          const lookups = new Lookups(isFound);
          for (const id of "abcdef") lookups.want(id, 1);
          await found;
          lookups.want("f", 1);
          await wait(400);
          window.fetch = real;
          return asked;
        }"""
    )

    assert ["/instances?id=f"] == asked


async def test_what_stays_in_a_list_keeps_its_element_and_the_focus(page: FleetPage) -> None:
    told = await page.run(
        """async () => {
          const { make, place } = await import("/fleet/elements.js");
          const list = make("ul");
          document.body.append(list);
          const item = (text) => make("li", { tabIndex: 0, textContent: text });
          const [a, b, c, d] = [..."abcd"].map(item);
          const told = [];
          place(list, [a, b, c]);
          c.focus();
          for (const items of [[c, b, d], [d, c], [d]]) {
            place(list, items);
            told.push([list.textContent, document.activeElement === c]);
          }
          list.remove();
          return told;
        }"""
    )

    assert [["cbd", True], ["dc", True], ["d", False]] == told


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
            const { steps } = scaleFor(name, { scheme, latencyLimitSeconds: null });
            for (const { colour, mark } of steps) {
              ratios[`${scheme} ${name} ${colour}`] = contrast(colour, BACKGROUNDS[scheme]);
              if (mark) ratios[`${scheme} ${name} ${mark}`] = contrast(mark, BACKGROUNDS[scheme]);
              if (mark) ratios[`${scheme} ${mark} on ${colour}`] = contrast(mark, colour);
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

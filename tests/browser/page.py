"""The page `/fleet` as a person has it: what is painted, what is said, what can be pressed."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from playwright.async_api import ConsoleMessage, Locator, Page, Request, Route

from tests.waiting import eventually

COMPLAINTS = ("error", "warning", "assert")
FIRST_PAINT = "fleet:first-paint"
UPDATE = "fleet:update"

PAINTED = """(ids) => {
  const canvas = document.getElementById("map");
  const copy = new OffscreenCanvas(canvas.width, canvas.height);
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const hex = (channel) => channel.toString(16).padStart(2, "0");
  const colourAt = (x, y) => {
    const [column, row] = [x, y].map((place) => Math.round(place * devicePixelRatio));
    const at = 4 * (row * canvas.width + column);
    return `#${[...data.slice(at, at + 3)].map(hex).join("")}`;
  };
  return ids.map((id) => {
    const cell = window.fleetPage.cellAt(id);
    return cell && colourAt(cell.x + cell.size / 2, cell.y + cell.size / 2);
  });
}"""
"""The colour in the middle of each instance's cell; null for those without a cell."""
LOADED = """() => performance.getEntriesByType("resource")
  .map((entry) => [new URL(entry.name).pathname, entry.transferSize])"""
FOCUSED = "() => document.activeElement.id || document.activeElement.textContent"


# No slots: Playwright keeps an attribute of its own beside a method that it calls.
@dataclass
class Watch:
    """What a page did that it must not do: complain, or ask another host."""

    origin: str
    allowed: list[str] = field(default_factory=list)
    """Parts of complaints that a test provokes."""
    seen: list[str] = field(default_factory=list)

    def follow(self, page: Page) -> None:
        """Note what this page does from now on."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.seen.append(f"uncaught: {error}"))
        page.on("request", self._request)

    def complaints(self) -> list[str]:
        """Return what no test provoked."""
        return [text for text in self.seen if not any(part in text for part in self.allowed)]

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in COMPLAINTS:
            self.seen.append(f"console {message.type}: {message.text}")

    def _request(self, request: Request) -> None:
        if not request.url.startswith(f"{self.origin}/"):
            self.seen.append(f"another host is asked: {request.url}")


class Held:
    """Requests of a page that go nowhere until they are let go."""

    def __init__(self) -> None:
        self.n = 0
        self._released = asyncio.Event()

    async def handle(self, route: Route) -> None:
        """Hold a request."""
        self.n += 1
        await self._released.wait()
        await route.continue_()

    def release(self) -> None:
        """Let go those that are held and those to come."""
        self._released.set()


@dataclass(frozen=True, slots=True)
class FleetPage:
    """A page, and what tests ask it."""

    page: Page
    watch: Watch

    def find(self, selector: str) -> Locator:
        """Return the elements of a CSS selector."""
        return self.page.locator(selector)

    def field(self, label: str) -> Locator:
        """Return a field of the form by its label."""
        return self.page.get_by_role("combobox", name=label, exact=True)

    def total(self, status: str) -> Locator:
        """Return the button that says how many instances have a status."""
        return self.page.get_by_role("button", name=re.compile(f"^{status} [0-9,]+$"))

    async def shown(self) -> None:
        """Return once the first cells are painted."""
        await eventually(lambda: self.durations_ms(FIRST_PAINT))

    async def colours(self, *ids: str) -> list[str | None]:
        """Return what is painted in the middle of the cells of these instances."""
        painted: list[str | None] = await self.run(PAINTED, list(ids))
        return painted

    async def eventually_paints(self, colour: str, *ids: str) -> None:
        """Return once the cells of all these instances have this colour."""

        async def are_painted() -> bool:
            return {colour} == set(await self.colours(*ids))

        await eventually(are_painted)

    async def centre(self, instance_id: str) -> tuple[float, float]:
        """Return where the middle of a cell is in the window, in CSS pixels."""
        cell: dict[str, float] = await self.run("(id) => window.fleetPage.cellAt(id)", instance_id)
        canvas = await self.find("#map").bounding_box()
        assert canvas is not None
        half = cell["size"] / 2
        return canvas["x"] + cell["x"] + half, canvas["y"] + cell["y"] + half

    async def point(self, instance_id: str) -> None:
        """Move the pointer to an instance's cell."""
        await self.page.mouse.move(*await self.centre(instance_id))

    async def run(self, function: str, given: Any = None) -> Any:
        """Return what a function in JavaScript returns, as JSON can tell it."""
        return await self.page.evaluate(function, given)

    async def click(self, instance_id: str) -> None:
        """Click on an instance's cell."""
        await self.page.mouse.click(*await self.centre(instance_id))

    async def press(self, *keys: str) -> None:
        """Press keys one after the other."""
        for key in keys:
            await self.page.keyboard.press(key)

    async def focused(self) -> str:
        """Return the id of the element that has the focus, or else its text."""
        focused: str = await self.run(FOCUSED)
        return focused

    async def text(self, selector: str) -> str:
        """Return an element's text."""
        return await self.find(selector).inner_text()

    async def texts(self, selector: str) -> list[str]:
        """Return the texts of some elements."""
        return await self.find(selector).all_inner_texts()

    async def durations_ms(self, measure: str) -> list[float]:
        """Return the durations that the page has measured under a name."""
        durations: list[float] = await self.run(
            "(name) => performance.getEntriesByName(name).map((entry) => entry.duration)", measure
        )
        return durations

    async def loaded(self) -> list[tuple[str, int]]:
        """Return what the page has loaded so far: paths, and bytes as they came, headers too."""
        loaded: list[tuple[str, int]] = await self.run(LOADED)
        return loaded

    @property
    def query(self) -> dict[str, str]:
        """Return what the page's address says after the question mark, but for the shape."""
        said = dict(parse_qsl(urlsplit(self.page.url).query))
        return {key: text for key, text in said.items() if key != "shape"}

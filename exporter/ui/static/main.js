/**
 * The fleet page: builds its parts and hands each answer and each choice to them.
 *
 * In:   the page's address (view.js says how it is read), the exporter's answers.
 * Out:  the page. `window.fleetPage.cellAt(id)` gives an instance's cell, in CSS pixels of the canvas,
 *       or null: with it, tests find the pixels that they look at.
 */

import { Alerts } from "./alerts.js";
import { Announcer } from "./announcer.js";
import { Banner } from "./banner.js";
import { Cards } from "./cards.js";
import { parsed } from "./client.js";
import { scaleFor } from "./colours.js";
import { Controls, matchWords } from "./controls.js";
import { Cursor } from "./cursor.js";
import { Details } from "./details.js";
import { byId } from "./elements.js";
import { Match } from "./filter.js";
import { Fleet } from "./fleet.js";
import { Header } from "./header.js";
import { arrange, boxOf } from "./layout.js";
import { Legend } from "./legend.js";
import { FleetMap } from "./map.js";
import { isNarrow, roomFor, watchRoom } from "./room.js";
import { measureFirstPaint, measureUpdate } from "./timings.js";
import { Updates } from "./updates.js";
import * as views from "./view.js";
import { Worst } from "./worst.js";

const DARK = window.matchMedia("(prefers-color-scheme: dark)");
const LATENCY_INDICATOR = "request_latency_p99_seconds";

class Page {
  constructor() {
    const canvas = byId("map");
    this.#map = new FleetMap(canvas);
    this.#cursor = new Cursor(canvas, () => this.#scene && { ...this.#scene, value: this.#scene.scale.name },
      (id) => this.change({ id }));
    this.#controls = new Controls((change) => this.change(change));
    this.#header = new Header((key, name) => this.change({ [key]: name === this.#view[key] ? null : name }));
    this.#details = new Details(() => this.change({ id: null }));
    this.#worst = new Worst((change) => this.change(change));
    this.#cards = new Cards((id) => this.change({ id }));
    this.#updates = new Updates({
      fleet: () => this.#fleet,
      value: () => this.#view.value,
      onMap: (text) => this.#takeMap(text),
      onChanges: (text) => this.#takeChanges(text),
      onFailure: (error) => this.#fail(error),
    });
  }

  #map;
  #cursor;
  #controls;
  #header;
  #details;
  #worst;
  #cards;
  #updates;
  #alerts = new Alerts();
  #announcer = new Announcer();
  #banner = new Banner();
  #legend = new Legend();
  #view = views.read(location.search);
  /** @type {Fleet | null} */
  #fleet = null;
  /** @type {import("./map.js").Scene | null} */
  #scene = null;

  /** Show what the address says, and keep it up to date. */
  start() {
    this.#controls.show(this.#view);
    this.#controls.fold(isNarrow());
    this.#details.show(this.#view.id);
    watchRoom(() => this.#redraw(), () => this.#controls.fold(isNarrow()));
    DARK.addEventListener("change", () => this.#redraw());
    window.addEventListener("popstate", () => this.#turnTo(views.read(location.search)));
    this.#updates.askNow();
  }

  /** @param {Partial<views.View>} change what a person has chosen */
  change(change) {
    const view = Object.freeze({ ...this.#view, ...change });
    const query = views.write(view);
    if (query !== views.write(this.#view)) history.pushState(null, "", `${location.pathname}${query}`);
    this.#turnTo(view);
  }

  /** @param {string} id @returns {{x: number, y: number, size: number} | null} */
  cellAt(id) {
    const cell = this.#fleet?.cellOf(id) ?? -1;
    return cell < 0 ? null : boxOf(this.#scene.layout, cell);
  }

  #turnTo(view) {
    const before = this.#view;
    this.#view = view;
    this.#controls.show(view);
    this.#details.show(view.id);
    if (this.#fleet === null) return;
    if (before.shape !== view.shape) this.#redraw();
    if (before.value === view.value && views.filtersEqual(before, view)) return;
    this.#worst.show(view);
    this.#redraw();
    if (!this.#hasColumn(view.value)) this.#updates.askNow();
    if (!views.filtersEqual(before, view)) this.#announcer.say(matchWords(this.#scene.match));
  }

  #hasColumn(value) {
    return value === "status" || this.#fleet.value?.name === value;
  }

  #takeMap(text) {
    const start = performance.now();
    const isFirst = this.#fleet === null;
    this.#fleet = new Fleet(parsed(text));
    this.#controls.offer(this.#fleet);
    this.#redraw();
    this.#tell();
    if (isFirst) measureFirstPaint();
    else measureUpdate(start);
  }

  #takeChanges(text) {
    const start = performance.now();
    const changes = parsed(text);
    if (changes.layout !== this.#fleet.layout) return false;
    const slow = slowWords(this.#fleet);
    const changed = this.#fleet.apply(changes);
    const scale = this.#scale();
    if (sameScale(scale, this.#scene.scale)) this.#repaint(changed, slow !== slowWords(this.#fleet));
    else this.#redraw();
    this.#tell();
    measureUpdate(start);
    return true;
  }

  #fail(error) {
    this.#banner.failed(error);
    this.#details.unanswered();
  }

  #repaint(cells, isSlowOther) {
    for (const cell of cells) this.#scene.match.update(cell);
    this.#map.repaint(cells, isSlowOther);
    this.#showShape();
    this.#showCounts();
  }

  /** Draw everything anew: another fleet, view, scheme or room. */
  #redraw() {
    if (this.#fleet === null) return;
    const [fleet, view] = [this.#fleet, this.#view];
    const scale = this.#scale();
    // What stands above the map comes first: it leaves the map its room.
    this.#legend.show(scale);
    this.#header.mark(view, scale.name === "status" ? looksOf(scale) : null);
    this.#header.show(fleet.summary);
    const layout = arrange(fleet.runs, roomFor());
    const match = new Match(fleet, view);
    this.#scene = { fleet, layout, match, scale, scheme: scheme() };
    this.#map.paint(this.#scene);
    this.#showShape();
    this.#showCounts();
    this.#cursor.refresh();
  }

  /** Show cards or the map: there are speeds where the fleet is small enough for cards. */
  #showShape() {
    const isSmall = this.#fleet.speeds !== null;
    const isCards = isSmall && this.#view.shape !== "map" && this.#fleet.size > 0;
    this.#controls.showShape(isCards ? "cards" : "map", isSmall);
    byId("map-place").hidden = isCards;
    byId("cards").hidden = !isCards;
    if (isCards) this.#cards.show(this.#scene);
  }

  #showCounts() {
    this.#controls.showMatch(this.#scene.match);
    this.#legend.count(this.#map.counts());
  }

  /** Return the scale of what is chosen; until its column has come, the old colours stay, with their legend. */
  #scale() {
    const names = [this.#view.value, this.#scene?.scale.name ?? "status", "status"];
    const name = names.find((one) => this.#hasColumn(one));
    const indicator = this.#fleet.summary.indicators.find((one) => one.name === LATENCY_INDICATOR);
    return scaleFor(name, { scheme: scheme(), latencyLimitSeconds: indicator?.threshold ?? null });
  }

  #tell() {
    const { summary } = this.#fleet;
    this.#banner.answered(this.#fleet);
    this.#header.show(summary);
    this.#alerts.show(summary.alerts, summary.taken_at_seconds);
    this.#announcer.hear(summary);
    this.#cursor.refresh();
    this.#details.refresh();
    this.#worst.refresh(this.#view);
    // It was asked for without the column of a value that was chosen since.
    if (!this.#hasColumn(this.#view.value)) this.#updates.askNow();
  }
}

function scheme() {
  return DARK.matches ? "dark" : "light";
}

function sameScale(one, other) {
  const words = ({ name, steps }) => [name, ...steps.map((step) => step.words + step.colour)].join();
  return words(one) === words(other);
}

function slowWords({ slowNodes }) {
  return [...slowNodes].join();
}

function looksOf(scale) {
  return new Map(scale.steps.map((step) => [step.words, step]));
}

const page = new Page();
window.fleetPage = Object.freeze({ cellAt: (id) => page.cellAt(id) });
page.start();

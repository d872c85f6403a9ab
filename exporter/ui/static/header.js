/**
 * The top of the page: totals by status and condition, the indicators against their thresholds, what
 * the fleet serves, where data is from.
 *
 * In:   a summary; how long ago it came is in it.
 * Out:  elements that say it, in words and signs and not by colour alone.
 */

import { byId, make, place, write } from "./elements.js";
import { CONDITION } from "./view.js";
import { bytes, condition as conditionWords, count, counted, decimal, latency, placeWords, span } from "./words.js";

const INDICATORS = {
  healthy_instances: { title: "Healthy instances", words: count },
  request_latency_p99_seconds: { title: "Request latency p99", words: latency },
  tokens_per_second: { title: "Tokens per second", words: count },
};
const BOUNDS = { floor: "at least", ceiling: "at most" };
/** Of what a latency is; requests need no word. */
const SOURCE_WORDS = { canaries: " of canaries", instances: " as instances report it" };
/** Why there is no value, and what gives one. */
const MISSING = {
  not_healthy: "no instance is healthy",
  needs_canary: "not measured: set --canary.period 5m",
  not_answered: "no canary answered in 5 min",
};
const TIME_WORDS = { request: "whole", time_to_first_token: "first token", waiting: "waiting" };
const SOURCES = { settings: "settings", prometheus: "Prometheus" };

export class Header {
  /** @param {(key: "status" | "condition", name: string) => void} onChoice called with what was clicked */
  constructor(onChoice) {
    this.#buttons = { status: new Buttons("totals", (name) => onChoice("status", name)) };
    this.#buttons.condition = new Buttons("conditions", (name) => onChoice("condition", name), conditionWords);
  }

  #buttons;
  /** @type {{status: string | null, condition: string | null}} */
  #chosen = { status: null, condition: null };
  /** @type {Map<string, import("./colours.js").Step> | null} */
  #looks = null;
  /** @type {Map<string, Object<string, HTMLElement>>} */
  #indicators = new Map();

  /** @param {Object} summary */
  show(summary) {
    this.#buttons.status.show({ healthy: summary.instances.healthy, ...holding(summary.instances, this.#chosen.status) });
    this.#buttons.condition.show(holding(summary.conditions, this.#chosen.condition));
    this.#buttons.status.mark(this.#chosen.status, (status) => this.#looks?.get(status));
    this.#buttons.condition.mark(this.#chosen.condition, () => this.#looks?.get(CONDITION));
    for (const indicator of summary.indicators) this.#showIndicator(indicator, summary);
    write(byId("facts"), facts(summary).join(" · "));
    write(byId("exporter"), `Exporter ${summary.version}`);
    showServing(summary);
  }

  /**
   * Mark what is chosen when it is shown next, and make the totals the map's key where it shows statuses.
   *
   * @param {import("./view.js").View} chosen
   * @param {Map<string, import("./colours.js").Step> | null} looks by status; null where colours mean something else
   */
  mark(chosen, looks) {
    this.#chosen = chosen;
    this.#looks = looks;
  }

  #showIndicator(indicator, summary) {
    const { title, words } = indicatorWords(indicator.name);
    const { term, value, limit, verdict, note } = this.#indicator(indicator.name);
    write(term, title + (SOURCE_WORDS[indicator.source] ?? ""));
    write(value, indicator.value === null ? "–" : words(indicator.value));
    write(limit, indicator.threshold === null ? "no threshold" : `${BOUNDS[indicator.bound]} ${words(indicator.threshold)}`);
    write(verdict, verdictOf(indicator));
    write(note, noteOf(indicator, summary));
    verdict.className = `verdict ${{ true: "met", false: "missed" }[indicator.is_met] ?? "unknown"}`;
  }

  #indicator(name) {
    if (!this.#indicators.has(name)) this.#indicators.set(name, makeIndicator(name));
    return this.#indicators.get(name);
  }
}

/** A row of buttons, one for each name, with a number. */
class Buttons {
  /** @param {string} id of a list @param {(name: string) => void} onClick @param {(name: string) => string} words */
  constructor(id, onClick, words = (name) => name) {
    this.#list = byId(id);
    this.#onClick = onClick;
    this.#words = words;
  }

  #list;
  #onClick;
  #words;
  /** @type {Map<string, Object<string, HTMLElement>>} */
  #made = new Map();

  /** @param {Object<string, number>} numbers by name */
  show(numbers) {
    const names = Object.keys(numbers);
    for (const name of names) write(this.#button(name).number, count(numbers[name]));
    place(this.#list, names.map((name) => this.#button(name).item));
  }

  /** @param {string | null} chosen @param {(name: string) => import("./colours.js").Step | undefined} lookOf */
  mark(chosen, lookOf) {
    for (const [name, { button, swatch }] of this.#made) {
      const look = lookOf(name);
      button.setAttribute("aria-pressed", String(name === chosen));
      swatch.hidden = look === undefined;
      swatch.className = look?.mark ? "swatch marked" : "swatch";
      swatch.style.backgroundColor = look?.mark ?? look?.colour ?? "";
      swatch.style.borderColor = look?.colour ?? "";
    }
  }

  #button(name) {
    if (!this.#made.has(name)) this.#made.set(name, this.#make(name));
    return this.#made.get(name);
  }

  #make(name) {
    const swatch = make("span", { className: "swatch" });
    const number = make("span", { className: "number" });
    const button = make("button", { type: "button" }, swatch, `${this.#words(name)} `, number);
    button.addEventListener("click", () => this.#onClick(name));
    return { item: make("li", {}, button), button, number, swatch };
  }
}

/** @returns {Object<string, number>} the statuses or conditions that some instance has, and the chosen one */
function holding(numbers, chosen) {
  return Object.fromEntries(Object.entries(numbers).filter(([name, n]) => n > 0 || name === chosen));
}

function showServing(summary) {
  const of = (key) => summary.times.map((time) => [time.name, time[key]]).filter(([, seconds]) => seconds !== null);
  write(byId("requests-times"), timesWords(of("requests_p99_seconds")) || "none counted in 5 min");
  const canaries = timesWords(of("canaries_p99_seconds")) || "none answered in 5 min";
  write(byId("canaries-times"), summary.canary_period_seconds > 0 ? canaries : "off: set --canary.period 5m");
  write(byId("loaded-models"), loadedWords(summary));
  const engines = Object.entries(summary.engines).map(([engine, n]) => `${engine} ${count(n)}`);
  write(byId("engines"), engines.join(" · ") || "none");
}

function timesWords(times) {
  return times.map(([name, seconds]) => `${TIME_WORDS[name] ?? name} ${latency(seconds)}`).join(" · ");
}

function loadedWords({ loaded_models: models, n_loaded_models: n, loaded_bytes: size, loaded_vram_bytes: vram }) {
  const left = n > models.length ? [`${count(n - models.length)} more`] : [];
  const names = models.map(({ model, instances }) => `${model} on ${count(instances)}`);
  const off = vram === null ? "" : `, ${placeWords(size, vram)}`;
  const memory = size === null ? [] : [`${bytes(size)}${off}`];
  return [...names, ...left, ...memory].join(" · ") || "none reported";
}

function makeIndicator(name) {
  const value = make("strong");
  const limit = make("span", { className: "limit" });
  const verdict = make("span");
  const term = make("dt");
  const note = make("span", { className: "limit" });
  // Always three lines, whatever the verdict: the map below keeps its place when an alert fires.
  const judged = make("span", { className: "judged" }, verdict, " ", note);
  byId("indicators").append(make("div", {}, term, make("dd", {}, value, " ", limit, judged)));
  return { term, value, limit, verdict, note };
}

function indicatorWords(name) {
  return INDICATORS[name] ?? { title: name, words: decimal };
}

/** Say that a figure is not counted of all. */
function noteOf({ n_measured: n }, { instances }) {
  return n === null ? "" : `extrapolated from ${count(n)} of ${count(instances.healthy)}`;
}

function verdictOf({ is_met: isMet, missing }) {
  if (isMet === null) return MISSING[missing] ?? "after the first poll cycle";
  return isMet ? "✓ met" : "✗ not met";
}

function facts(summary) {
  const { index, count: shards } = summary.shard;
  const total = Object.values(summary.instances).reduce((sum, n) => sum + n, 0);
  const cycle = summary.last_cycle_age_seconds;
  return [
    counted(total, "instance"),
    ...(shards === 1 ? [] : [`shard ${index} of ${shards} (counted from 0)`]),
    cycle === null ? "no poll cycle ended yet" : `last poll cycle ended ${span(cycle)} ago`,
    inventoryFact(summary.inventory_age_seconds),
    `thresholds from ${SOURCES[summary.thresholds_from] ?? summary.thresholds_from}`,
  ];
}

function inventoryFact(age) {
  return age === null ? "an inventory source was never read" : `inventory read ${span(age)} ago`;
}

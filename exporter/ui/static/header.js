/**
 * The top of the page: totals by status, the indicators against their thresholds, where data is from.
 *
 * In:   a summary; how long ago it came is in it.
 * Out:  elements that say it, in words and signs and not by colour alone.
 */

import { byId, make, write } from "./elements.js";
import { count, counted, decimal, latency, span } from "./words.js";

const INDICATORS = {
  healthy_instances: { title: "Healthy instances", words: count },
  request_latency_p99_seconds: { title: "Request latency p99", words: latency },
  tokens_per_second: { title: "Tokens per second", words: count },
};
const BOUNDS = { floor: "at least", ceiling: "at most" };
const SOURCES = { settings: "settings", prometheus: "Prometheus" };

export class Header {
  /** @param {(status: string) => void} onStatus called with the status that was clicked */
  constructor(onStatus) {
    this.#onStatus = onStatus;
  }

  #onStatus;
  /** @type {Map<string, {button: HTMLElement, number: HTMLElement, swatch: HTMLElement}>} */
  #totals = new Map();
  /** @type {Map<string, {value: HTMLElement, limit: HTMLElement, verdict: HTMLElement}>} */
  #indicators = new Map();

  /** @param {Object} summary */
  show(summary) {
    for (const [status, n] of Object.entries(summary.instances)) write(this.#total(status).number, count(n));
    for (const indicator of summary.indicators) this.#showIndicator(indicator);
    write(byId("facts"), facts(summary).join(" · "));
  }

  /**
   * Mark the status that is chosen, and make the totals the map's key where it shows statuses.
   *
   * @param {string | null} chosen
   * @param {Map<string, string> | null} colours by status; null where colours mean something else
   */
  mark(chosen, colours) {
    for (const [status, { button, swatch }] of this.#totals) {
      button.setAttribute("aria-pressed", String(status === chosen));
      swatch.hidden = colours === null;
      swatch.style.backgroundColor = colours?.get(status) ?? "";
    }
  }

  #total(status) {
    if (!this.#totals.has(status)) this.#totals.set(status, this.#makeTotal(status));
    return this.#totals.get(status);
  }

  #makeTotal(status) {
    const swatch = make("span", { className: "swatch" });
    const number = make("span", { className: "number" });
    const button = make("button", { type: "button" }, swatch, `${status} `, number);
    button.addEventListener("click", () => this.#onStatus(status));
    byId("totals").append(make("li", {}, button));
    return { button, number, swatch };
  }

  #showIndicator(indicator) {
    const { words } = indicatorWords(indicator.name);
    const { value, limit, verdict } = this.#indicator(indicator.name);
    write(value, indicator.value === null ? "–" : words(indicator.value));
    write(limit, indicator.threshold === null ? "no threshold" : `${BOUNDS[indicator.bound]} ${words(indicator.threshold)}`);
    write(verdict, verdictOf(indicator.is_met));
    verdict.className = `verdict ${{ true: "met", false: "missed" }[indicator.is_met] ?? "unknown"}`;
  }

  #indicator(name) {
    if (!this.#indicators.has(name)) this.#indicators.set(name, makeIndicator(name));
    return this.#indicators.get(name);
  }
}

function makeIndicator(name) {
  const value = make("strong");
  const limit = make("span", { className: "limit" });
  const verdict = make("span");
  const term = make("dt", { textContent: indicatorWords(name).title });
  byId("indicators").append(make("div", {}, term, make("dd", {}, value, " ", limit, " ", verdict)));
  return { value, limit, verdict };
}

function indicatorWords(name) {
  return INDICATORS[name] ?? { title: name, words: decimal };
}

function verdictOf(isMet) {
  if (isMet === null) return "? not known yet";
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
    `exporter ${summary.version}`,
  ];
}

function inventoryFact(age) {
  return age === null ? "an inventory source was never read" : `inventory read ${span(age)} ago`;
}

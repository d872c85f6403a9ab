/**
 * The alerts that fire, as Prometheus tells the exporter.
 *
 * In:   `alerts` of a summary.
 * Out:  the most severe of them, how many there are, or why that is not known; in short at the top.
 */

import { byId, make, place, write } from "./elements.js";
import { clock, count, counted, span } from "./words.js";

const MOST_SHOWN = 20;
const SIGNS = new Map([["critical", "▲ critical"], ["warning", "△ warning"]]);

export class Alerts {
  /** @type {Map<string, {item: HTMLElement, when: HTMLElement}>} by name and labels */
  #shown = new Map();
  #left = make("li");

  /** @param {Object | null} alerts @param {number} nowSeconds by the exporter's clock */
  show(alerts, nowSeconds) {
    const firing = (alerts?.firing ?? []).slice(0, MOST_SHOWN);
    write(byId("alerts-state"), stateOf(alerts));
    byId("alerts-state").classList.toggle("trouble", Boolean(alerts?.error));
    this.#showInShort(alerts);
    const left = (alerts?.n_firing ?? 0) - firing.length;
    write(this.#left, `and ${count(left)} more`);
    place(byId("alerts-list"), [...this.#items(firing, nowSeconds), ...(left > 0 ? [this.#left] : [])]);
  }

  #showInShort(alerts) {
    const link = byId("alerts-in-short");
    link.hidden = alerts === null;
    if (alerts === null) return;
    write(link, inShort(alerts));
    link.classList.toggle("trouble", Boolean(alerts.error) || alerts.n_critical > 0);
  }

  /** Return the items, those that were there before as they were. */
  #items(firing, nowSeconds) {
    const before = this.#shown;
    this.#shown = new Map(firing.map((alert) => [keyOf(alert), before.get(keyOf(alert)) ?? itemOf(alert)]));
    for (const alert of firing) write(this.#shown.get(keyOf(alert)).when, whenOf(alert, nowSeconds));
    return [...this.#shown.values()].map(({ item }) => item);
  }
}

function stateOf(alerts) {
  if (alerts === null) return "No Prometheus is configured (ui.prometheus-url).";
  if (alerts.error) return errorOf(alerts);
  return alerts.n_firing === 0 ? "None is firing." : `${count(alerts.n_firing)} firing`;
}

function errorOf({ error, firing }) {
  const before = firing.length > 0 ? " What fired before:" : "";
  return `${error} (ui.prometheus-url).${before}`;
}

function inShort({ error, n_firing: n, n_critical: critical }) {
  if (error) return "? alerts not known";
  if (n === 0) return "no alert fires";
  return `${counted(n, "alert fires", "alerts fire")}, ${count(critical)} critical`;
}

function keyOf({ name, severity, labels }) {
  return JSON.stringify([name, severity, labels]);
}

function itemOf({ name, severity, labels }) {
  const isKnown = SIGNS.has(severity);
  const sign = make("span", { className: isKnown ? `severity ${severity}` : "severity" });
  write(sign, isKnown ? SIGNS.get(severity) : severity);
  const where = Object.entries(labels).map(([key, value]) => `${key}=${value}`).join(", ");
  const when = make("span");
  const item = make("li", {}, sign, " ", make("b", { textContent: name }), make("br"), where && `${where} · `, when);
  return { item, when };
}

function whenOf({ since_seconds: since }, nowSeconds) {
  return `since ${clock(since)} (${span(nowSeconds - since)})`;
}

/**
 * The alerts that fire or are pending, as Prometheus tells the exporter.
 *
 * In:   `alerts` of a summary.
 * Out:  the most severe of them, how many there are, or why that is not known; in short at the top.
 *       Each links to its runbook, its dashboard and Prometheus.
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
    const pending = (alerts?.pending ?? []).map((alert) => ({ ...alert, isPending: true }));
    const items = this.#items([...firing, ...pending], alerts?.prometheus_url, nowSeconds);
    if (left > 0) items.splice(firing.length, 0, this.#left);
    place(byId("alerts-list"), items);
    byId("alerts-list").hidden = items.length === 0;
  }

  #showInShort(alerts) {
    const link = byId("alerts-in-short");
    link.hidden = alerts === null;
    if (alerts === null) return;
    write(link, inShort(alerts));
    link.classList.toggle("trouble", Boolean(alerts.error) || alerts.n_critical > 0);
  }

  /** Return the items, those that were there before as they were. */
  #items(shown, prometheusUrl, nowSeconds) {
    const before = this.#shown;
    this.#shown = new Map(shown.map((alert) => [keyOf(alert), before.get(keyOf(alert)) ?? itemOf(alert, prometheusUrl)]));
    for (const alert of shown) write(this.#shown.get(keyOf(alert)).when, whenOf(alert, nowSeconds));
    return [...this.#shown.values()].map(({ item }) => item);
  }
}

function stateOf(alerts) {
  if (alerts === null) return "No Prometheus is configured (ui.prometheus-url).";
  if (alerts.error) return errorOf(alerts);
  const pending = alerts.pending.length > 0 ? `, ${count(alerts.pending.length)} pending` : "";
  return (alerts.n_firing === 0 ? "None is firing" : `${count(alerts.n_firing)} firing`) + pending;
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

function keyOf({ name, severity, labels, dashboard_url: dashboard, isPending }) {
  return JSON.stringify([name, severity, labels, dashboard, isPending]);
}

function itemOf({ name, severity, labels, dashboard_url: dashboard, isPending }, prometheusUrl) {
  const isKnown = SIGNS.has(severity);
  const sign = make("span", { className: isKnown ? `severity ${severity}` : "severity" });
  write(sign, isPending ? `◷ pending ${severity}` : isKnown ? SIGNS.get(severity) : severity);
  const where = Object.entries(labels).map(([key, value]) => `${key}=${value}`).join(", ");
  const when = make("span");
  const expression = `ALERTS{alertname="${name}"}`;
  const links = [
    link("runbook", `/runbooks/${encodeURIComponent(name)}`),
    ...(dashboard ? [link("dashboard", dashboard)] : []),
    link("Prometheus", `${prometheusUrl}/graph?g0.tab=1&g0.expr=${encodeURIComponent(expression)}`),
  ];
  const item = make(
    "li", {}, sign, " ", make("b", { textContent: name }), make("br"), where && `${where} · `, when,
    " · ", ...links.flatMap((one) => [one, " "]),
  );
  return { item, when };
}

function link(words, href) {
  return make("a", { href, textContent: words });
}

function whenOf({ since_seconds: since, for_seconds: forSeconds, isPending }, nowSeconds) {
  if (!isPending) return `since ${clock(since)} (${span(nowSeconds - since)})`;
  if (forSeconds === null) return `pending since ${clock(since)}`;
  const left = since + forSeconds - nowSeconds;
  return left > 0 ? `fires in ${span(left)} unless it ends` : "fires at the next evaluation unless it ends";
}

/**
 * The alerts that fire, as Prometheus tells the exporter.
 *
 * In:   `alerts` of a summary.
 * Out:  the most severe of them, how many there are, or why that is not known.
 */

import { byId, make, write } from "./elements.js";
import { clock, count, span } from "./words.js";

const MOST_SHOWN = 20;
const SIGNS = { critical: "▲ critical", warning: "△ warning" };

/** @param {Object | null} alerts @param {number} nowSeconds by the exporter's clock */
export function showAlerts(alerts, nowSeconds) {
  const firing = alerts?.firing ?? [];
  write(byId("alerts-state"), stateOf(alerts));
  byId("alerts-state").classList.toggle("trouble", Boolean(alerts?.error));
  const items = firing.slice(0, MOST_SHOWN).map((alert) => itemOf(alert, nowSeconds));
  const left = (alerts?.n_firing ?? 0) - items.length;
  byId("alerts-list").replaceChildren(...items, ...(left > 0 ? [make("li", {}, `and ${count(left)} more`)] : []));
}

function stateOf(alerts) {
  if (alerts === null) return "No Prometheus is configured (page.prometheus-url).";
  if (alerts.error) return errorOf(alerts);
  return alerts.n_firing === 0 ? "None is firing." : `${count(alerts.n_firing)} firing`;
}

function errorOf({ error, firing }) {
  const before = firing.length > 0 ? " What fired before:" : "";
  return `${error} (page.prometheus-url).${before}`;
}

function itemOf({ name, severity, labels, since_seconds: since }, nowSeconds) {
  const sign = make("span", { className: `severity ${severity}`, textContent: SIGNS[severity] ?? severity });
  const where = Object.entries(labels).map(([key, value]) => `${key}=${value}`).join(", ");
  const when = `since ${clock(since)} (${span(nowSeconds - since)})`;
  return make("li", {}, sign, " ", make("b", { textContent: name }), make("br"), [where, when].filter(Boolean).join(" · "));
}

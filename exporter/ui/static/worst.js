/**
 * The worst instances as a table: what the map shows, for those who do not see it.
 *
 * In:   a View.
 * Out:  a table, asked for anew with the updates, though not more often than each five seconds.
 */

import { fetchWorst } from "./client.js";
import { byId, make, place, write } from "./elements.js";
import { conditions as conditionWords, count, shortValue } from "./words.js";

const REFRESH_MS = 5_000;
const CAPTIONS = {
  status: "Not healthy, or with a condition",
  speed: "Slowest against their peers",
  p99: "Highest p99 latency",
  canary: "Slowest canaries",
  errors: "Most errors in 5 min",
  age: "Oldest",
};
const HEADS = { status: "Why", speed: "Speed", p99: "p99", canary: "Canary", errors: "Errors", age: "Age" };

export class Worst {
  /** @param {(id: string) => void} onOpen */
  constructor(onOpen) {
    this.#onOpen = onOpen;
  }

  #onOpen;
  #askedAt = -Infinity;
  #isAsking = false;
  /** @type {import("./view.js").View | null} */
  #next = null;
  /** @type {Map<string, {row: HTMLElement, texts: HTMLElement[]}>} by id of the instance */
  #rows = new Map();

  /** Show the worst of another view. @param {import("./view.js").View} view */
  show(view) {
    this.#askedAt = -Infinity;
    this.refresh(view);
  }

  /** Ask again, if it was long enough ago. @param {import("./view.js").View} view */
  refresh(view) {
    if (performance.now() - this.#askedAt < REFRESH_MS) return;
    this.#next = view;
    if (!this.#isAsking) this.#ask();
  }

  async #ask() {
    this.#isAsking = true;
    while (this.#next !== null) {
      const view = this.#next;
      this.#next = null;
      this.#askedAt = performance.now();
      // The updates say it loudly enough where the exporter does not answer.
      const worst = await fetchWorst(view).catch(() => null);
      if (worst !== null && this.#next === null) this.#fill(worst);
    }
    this.#isAsking = false;
  }

  #fill({ value, n_matching: nMatching, n_ranked: nRanked, instances }) {
    write(byId("worst-caption"), captionOf(value, nMatching, nRanked, instances.length));
    write(byId("worst-value"), HEADS[value]);
    const before = this.#rows;
    this.#rows = new Map(instances.map(({ id }) => [id, before.get(id) ?? this.#makeRow(id)]));
    for (const instance of instances) {
      const { texts } = this.#rows.get(instance.id);
      textsOf(value, instance).forEach((text, at) => write(texts[at], text));
    }
    const hadFocus = byId("worst-rows").contains(document.activeElement);
    place(byId("worst-rows"), [...this.#rows.values()].map(({ row }) => row));
    // The row that had it is gone: what is next to be read is the table.
    if (hadFocus && document.activeElement === document.body) byId("worst-room").focus({ preventScroll: true });
  }

  #makeRow(id) {
    const open = make("button", { type: "button", textContent: id });
    open.dataset.worst = id;
    open.addEventListener("click", () => this.#onOpen(id));
    const [node, model, what] = [make("td"), make("td"), make("span")];
    const row = make("tr", {}, make("th", { scope: "row" }, open), node, model, make("td", {}, what));
    return { row, texts: [node, model, what] };
  }
}

function captionOf(value, nMatching, nRanked, n) {
  const what = `${CAPTIONS[value]}: `;
  if (n === 0) return `${what}none of ${count(nMatching)} instances`;
  return `${what}${n < nRanked ? `the first ${n}` : n} of ${count(nMatching)} instances`;
}

function textsOf(value, instance) {
  return [instance.node, instance.model, value === "status" ? reasonOf(instance) : shortValue(value, instance.value)];
}

function reasonOf({ status, last_error: error, conditions = [] }) {
  const reasons = [error, conditionWords(conditions)].filter(Boolean);
  return [status, ...reasons].join(": ");
}

/**
 * The worst instances as a table: what the map shows, for those who do not see it.
 *
 * In:   a View.
 * Out:  a table, asked for anew with the updates, though not more often than each five seconds.
 */

import { fetchWorst } from "./client.js";
import { byId, make, write } from "./elements.js";
import { count, shortValue } from "./words.js";

const REFRESH_MS = 5_000;
const CAPTIONS = {
  status: "Not healthy",
  speed: "Slowest against their peers",
  p99: "Highest p99 latency",
  errors: "Most errors in 5 min",
  age: "Oldest",
};
const HEADS = { status: "Why", speed: "Speed", p99: "p99", errors: "Errors", age: "Age" };

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

  #fill({ value, n_matching: nMatching, instances }) {
    write(byId("worst-caption"), captionOf(value, nMatching, instances.length));
    write(byId("worst-value"), HEADS[value]);
    const focused = document.activeElement?.dataset?.worst;
    byId("worst-rows").replaceChildren(...instances.map((instance) => this.#rowOf(value, instance)));
    if (focused !== undefined) this.#focus(focused);
  }

  #rowOf(value, instance) {
    const open = make("button", { type: "button", textContent: instance.id });
    open.dataset.worst = instance.id;
    open.addEventListener("click", () => this.#onOpen(instance.id));
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, open),
      make("td", { textContent: instance.node }),
      make("td", { textContent: instance.model }),
      make("td", {}, make("span", { textContent: value === "status" ? reasonOf(instance) : shortValue(value, instance.value) })),
    );
  }

  /** Give the row of the same instance the focus back, which its old button had. */
  #focus(id) {
    const buttons = [...byId("worst-rows").querySelectorAll("button")];
    buttons.find((button) => button.dataset.worst === id)?.focus({ preventScroll: true });
  }
}

function captionOf(value, nMatching, n) {
  const what = `${CAPTIONS[value]}: `;
  if (n === 0) return `${what}none of ${count(nMatching)} instances`;
  return `${what}${n >= 50 ? `the first ${n}` : n} of ${count(nMatching)} instances`;
}

function reasonOf({ status, last_error: error }) {
  return error ? `${status}: ${error}` : status;
}

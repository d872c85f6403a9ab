/**
 * The worst instances as a table: what the map shows, for those who do not see it.
 *
 * In:   a View.
 * Out:  a table, asked for anew with the updates, though not more often than each five seconds.
 *       Instances of a node that suffer from the same are one row, and so is a slow node.
 */

import { fetchWorst } from "./client.js";
import { byId, make, place, write } from "./elements.js";
import { condition as oneCondition, conditions as conditionWords, count, counted, shortValue, value as valueWords } from "./words.js";

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
  /** @param {(change: Partial<import("./view.js").View>) => void} onOpen */
  constructor(onOpen) {
    this.#onOpen = onOpen;
  }

  #onOpen;
  #askedAt = -Infinity;
  #isAsking = false;
  /** @type {import("./view.js").View | null} */
  #next = null;
  /** @type {Map<string, {row: HTMLElement, texts: HTMLElement[]}>} by key */
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

  #fill(worst) {
    write(byId("worst-caption"), captionOf(worst));
    write(byId("worst-value"), HEADS[worst.value]);
    const lines = linesOf(worst);
    const before = this.#rows;
    this.#rows = new Map(lines.map((line) => [line.key, before.get(line.key) ?? this.#makeRow(line)]));
    for (const { key, texts } of lines) texts.forEach((text, at) => write(this.#rows.get(key).texts[at], text));
    const hadFocus = byId("worst-rows").contains(document.activeElement);
    place(byId("worst-rows"), [...this.#rows.values()].map(({ row }) => row));
    // The row that had it is gone: what is next to be read is the table.
    if (hadFocus && document.activeElement === document.body) byId("worst-room").focus({ preventScroll: true });
  }

  #makeRow({ key, change }) {
    const open = make("button", { type: "button" });
    open.dataset.worst = key;
    open.addEventListener("click", () => this.#onOpen(change));
    const [node, model, what] = [make("td"), make("td"), make("span")];
    const row = make("tr", {}, make("th", { scope: "row" }, open), node, model, make("td", {}, what));
    return { row, texts: [open, node, model, what] };
  }
}

function captionOf({ value, n_matching: nMatching, n_ranked: nRanked, instances, groups }) {
  const what = `${CAPTIONS[value]}: `;
  if (nRanked === 0) return `${what}none of ${counted(nMatching, "instance")}`;
  if (value !== "status") {
    const n = instances.length;
    return `${what}${n < nRanked ? `the first ${n}` : n} of ${counted(nMatching, "instance")}`;
  }
  const n = groups.reduce((sum, group) => sum + group.n, instances.length);
  const left = nRanked > n ? `, the first ${count(n)}` : "";
  return `${what}${count(nRanked)} of ${counted(nMatching, "instance")}${left}`;
}

/** Return the rows: key, texts, and what a press changes of the view. */
function linesOf({ value, instances, groups, slow_nodes: slowNodes }) {
  return [
    ...groups.map(({ node, what, is_condition: isCondition, n }) => ({
      key: `${node} ${what}`,
      texts: [counted(n, "instance"), node, "", isCondition ? `healthy: ${oneCondition(what)}` : what],
      change: { node, [isCondition ? "condition" : "status"]: what },
    })),
    ...slowNodes.map(({ node, percent }) => ({
      key: `${node} slow`,
      texts: ["slow node", node, "", valueWords("speed", percent)],
      change: { node, value: "speed" },
    })),
    ...instances.map((instance) => ({
      key: instance.id,
      texts: [instance.id, instance.node, instance.model, whyOf(value, instance)],
      change: { id: instance.id },
    })),
  ];
}

function whyOf(value, instance) {
  return value === "status" ? reasonOf(instance) : shortValue(value, instance.value);
}

function reasonOf({ status, last_error: error, conditions = [] }) {
  const reasons = [error, conditionWords(conditions)].filter(Boolean);
  return [status, ...reasons].join(": ");
}

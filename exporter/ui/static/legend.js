/**
 * What the map's colours mean, and how many instances have each.
 *
 * In:   a Scale; counts by step.
 * Out:  a list. Statuses need none: their totals are the key.
 */

import { byId, make, write } from "./elements.js";
import { NOT_KNOWN, count } from "./words.js";

/** Where no instance has a value: what would give one. */
const NOTES = {
  speed: "No speed is known: --canary.period measures it. A model needs three instances to compare.",
  p99: "These servers report no p99 of their own.",
  canary: "No canary was answered; --canary.period sends them.",
  errors: "These servers report no errors.",
  age: "These servers report no start time; `started` in the inventory gives it.",
};

export class Legend {
  #numbers = [];
  #name = "";

  /** @param {import("./colours.js").Scale} scale */
  show(scale) {
    this.#name = scale.name;
    byId("legend").hidden = scale.name === "status";
    write(byId("legend-unit"), scale.unit);
    this.#numbers = scale.steps.map(() => make("span", { className: "number" }));
    byId("legend-steps").replaceChildren(...scale.steps.map((step, at) => itemOf(step, this.#numbers[at])));
  }

  /** @param {number[]} counts of the instances that match, by step */
  count(counts) {
    this.#numbers.forEach((number, step) => write(number, count(counts[step])));
    write(byId("legend-note"), counts.slice(0, -1).some(Boolean) ? "" : (NOTES[this.#name] ?? ""));
  }
}

function itemOf({ colour, words }, number) {
  const swatch = make("span", { className: words === NOT_KNOWN ? "swatch hollow" : "swatch" });
  swatch.style.color = colour;
  return make("li", {}, swatch, `${words} `, number);
}

/**
 * The form over the map: what colours the cells, and the filters.
 *
 * In:   a View, the fleet's names, how many match.
 * Out:  calls with what a person changed of the View.
 */

import { byId, make, write } from "./elements.js";
import { VALUES, isFiltered } from "./view.js";
import { TITLES, count } from "./words.js";

const NAMES_BY_KEY = { node: "nodes", model: "models", developer: "developers" };
/** A list of thousands opens slowly, and nobody reads it: typing shortens it. */
const MOST_OFFERED = 200;

export class Controls {
  /** @param {(change: Partial<import("./view.js").View>) => void} onChange */
  constructor(onChange) {
    this.#value = byId("value");
    this.#value.append(...VALUES.map((value) => make("option", { value, textContent: TITLES[value] })));
    this.#value.addEventListener("change", () => onChange({ value: this.#value.value }));
    byId("shape").addEventListener("change", () => onChange({ shape: byId("shape").value }));
    for (const key of Object.keys(NAMES_BY_KEY)) this.#listen(key, onChange);
    byId("clear").addEventListener("click", () => {
      // The button is of no use from now on, and would lose the focus to nothing.
      byId("value").focus();
      onChange({ node: null, model: null, status: null, condition: null, developer: null });
    });
    byId("controls").addEventListener("submit", (event) => event.preventDefault());
  }

  #value;
  #fleet = null;

  /** Offer the names of this fleet. @param {import("./fleet.js").Fleet} fleet */
  offer(fleet) {
    this.#fleet = fleet;
  }

  /** @param {import("./view.js").View} view */
  show(view) {
    this.#value.value = view.value;
    for (const key of Object.keys(NAMES_BY_KEY)) byId(key).value = view[key] ?? "";
    byId("clear").disabled = !isFiltered(view);
  }

  /** @param {import("./view.js").View["shape"]} shape as it is shown @param {boolean} isChoice */
  showShape(shape, isChoice) {
    byId("shape-choice").hidden = !isChoice;
    byId("shape").value = shape;
  }

  /** Fold the filters of a narrow window, where they take the room of what is wrong. @param {boolean} isNarrow */
  fold(isNarrow) {
    byId("filters").open = !isNarrow || !byId("clear").disabled;
  }

  /** @param {import("./filter.js").Match} match */
  showMatch(match) {
    write(byId("matching"), match.isAll ? "" : matchWords(match));
  }

  #listen(key, onChange) {
    const input = byId(key);
    input.addEventListener("focus", () => this.#fillList(key, ""));
    input.addEventListener("input", () => this.#fillList(key, input.value));
    input.addEventListener("change", () => onChange({ [key]: input.value.trim() || null }));
  }

  #fillList(key, typed) {
    const names = this.#fleet?.[NAMES_BY_KEY[key]] ?? [];
    const wanted = typed.trim().toLowerCase();
    const found = names.filter((name) => name !== "" && name.toLowerCase().includes(wanted));
    const options = found.slice(0, MOST_OFFERED).map((value) => make("option", { value }));
    byId(`${key}-names`).replaceChildren(...options);
  }
}

/** @param {import("./filter.js").Match} match @returns {string} how many instances the filters take */
export function matchWords({ isAll, n, of }) {
  if (isAll) return `All ${count(of)} match`;
  return n === 0 ? `No instance matches, of ${count(of)}.` : `${count(n)} of ${count(of)} match`;
}

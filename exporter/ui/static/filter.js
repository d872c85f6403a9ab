/**
 * Which cells a view's filters take.
 *
 * In:   a Fleet and a View.
 * Out:  a Match, which is kept up to date cell by cell.
 */

import { isFiltered } from "./view.js";

export class Match {
  /** @param {import("./fleet.js").Fleet} fleet @param {import("./view.js").View} view */
  constructor(fleet, view) {
    this.#fleet = fleet;
    this.isAll = !isFiltered(view);
    // A name that the fleet does not have gives -1, which no cell has: nothing matches.
    this.#wanted = [
      [fleet.node, codeOf(fleet.nodes, view.node)],
      [fleet.model, codeOf(fleet.models, view.model)],
      [fleet.developer, codeOf(fleet.developers, view.developer)],
      [fleet.status, codeOf(fleet.statuses, view.status)],
    ].filter(([, code]) => code !== null);
    this.#bit = view.condition === null ? 0 : 1 << fleet.conditionNames.indexOf(view.condition);
    this.#taken = new Uint8Array(fleet.size);
    this.n = 0;
    for (let cell = 0; cell < fleet.size; cell += 1) this.update(cell);
  }

  #fleet;
  #wanted;
  #bit;
  #taken;

  /** @param {number} cell @returns {boolean} whether the filters take it */
  has(cell) {
    return this.#taken[cell] === 1;
  }

  /** Look at a cell again, whose status or conditions may be others now. @param {number} cell */
  update(cell) {
    const isTaken = this.#hasCondition(cell) && this.#wanted.every(([column, code]) => column[cell] === code) ? 1 : 0;
    this.n += isTaken - this.#taken[cell];
    this.#taken[cell] = isTaken;
  }

  #hasCondition(cell) {
    return this.#bit === 0 || (this.#fleet.conditions[cell] & this.#bit) !== 0;
  }

  /** @returns {number} of how many */
  get of() {
    return this.#fleet.size;
  }
}

/** @returns {number | null} null: any */
function codeOf(names, name) {
  return name === null ? null : names.indexOf(name);
}

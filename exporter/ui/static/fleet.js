/**
 * The page's copy of the fleet, kept up to date by what the exporter says has changed.
 *
 * In:   answers of `/fleet/map` and `/fleet/changes`.
 * Out:  a Fleet, and for each answer which cells look different now.
 */

import { CONDITION } from "./view.js";

/**
 * @typedef {Object} Value a column of numbers; NaN where one is not known
 * @property {string} name
 * @property {Float64Array} values
 */

/**
 * @typedef {Object} Run the cells of one node: they follow each other
 * @property {number} node its index
 * @property {number} first
 * @property {number} n
 */

export class Fleet {
  /** @param {Object} map an answer of `/fleet/map` */
  constructor(map) {
    this.layout = map.layout;
    this.revision = map.revision;
    this.refreshSeconds = map.refresh_seconds;
    this.pollIntervalSeconds = map.poll_interval_seconds;
    this.inventoryRefreshSeconds = map.inventory_refresh_seconds;
    this.statuses = map.statuses;
    this.nodes = map.nodes;
    this.models = map.models;
    this.developers = map.developers;
    this.ids = map.cells.id;
    this.node = Uint32Array.from(map.cells.node);
    this.model = Uint32Array.from(map.cells.model);
    this.developer = Uint32Array.from(map.cells.developer);
    this.status = Uint8Array.from(map.status);
    this.conditionNames = map.condition_names;
    /** Bits: the first of the names is the lowest. */
    this.conditions = new Uint8Array(this.ids.length);
    write(this.conditions, map.conditions, new Set());
    /** @type {Value | null} */
    this.value = map.value && { name: map.value.name, values: numbers(map.value.values) };
    /** In tokens/s, by cell; null in a fleet that is too large for cards. @type {(number | null)[] | null} */
    this.speeds = map.tokens_per_second;
    this.#take(map.summary);
    /** @type {Run[]} */
    this.runs = runsOf(this.node);
  }

  /** @returns {number} how many cells there are */
  get size() {
    return this.ids.length;
  }

  /** @param {string} id @returns {number} the cell of an instance, -1 where there is none */
  cellOf(id) {
    return this.ids.indexOf(id);
  }

  /** @param {number} cell @returns {string[]} what is wrong with it though it may be healthy */
  conditionsOf(cell) {
    return this.conditionNames.filter((_, bit) => this.conditions[cell] & (1 << bit));
  }

  /** @param {number} cell @param {string} name @returns {string | number | null} */
  valueOf(cell, name) {
    if (name === "status") return this.#statusOf(cell);
    const known = this.value?.name === name ? this.value.values[cell] : NaN;
    return Number.isNaN(known) ? null : known;
  }

  #statusOf(cell) {
    const status = this.statuses[this.status[cell]];
    return status === "healthy" && this.conditions[cell] ? CONDITION : status;
  }

  /**
   * Take over what has changed.
   *
   * @param {Object} changes an answer of `/fleet/changes` for this layout
   * @returns {Iterable<number>} the cells of which a status or the value is another one
   */
  apply(changes) {
    this.revision = changes.revision;
    this.speeds = changes.tokens_per_second;
    this.#take(changes.summary);
    const changed = new Set();
    write(this.status, changes.status, changed);
    write(this.conditions, changes.conditions, changed);
    // A column that is not followed any more would grow old.
    if (changes.value === null) this.value = null;
    else this.#applyValue(changes.value, changed);
    return changed;
  }

  #take(summary) {
    this.summary = summary;
    /** Per cent of the peers' speed, by node. @type {Map<string, number>} */
    this.slowNodes = new Map(summary.slow_nodes.map(({ node, percent }) => [node, percent]));
  }

  #applyValue({ name, cells, to }, changed) {
    if (this.value?.name !== name) {
      // A column that was not followed so far comes whole; a part of one would be of no use.
      if (cells !== null) return;
      this.value = { name, values: new Float64Array(this.size).fill(NaN) };
    }
    write(this.value.values, { cells, to: numbers(to) }, changed);
  }
}

/** @param {(number | null)[]} values @returns {Float64Array} */
function numbers(values) {
  return Float64Array.from(values, (value) => value ?? NaN);
}

/** Write some elements of a column, or all where `cells` is null; add those that differ to `changed`. */
function write(column, { cells, to }, changed) {
  const n = cells === null ? column.length : cells.length;
  for (let i = 0; i < n; i += 1) {
    const cell = cells === null ? i : cells[i];
    if (!Object.is(column[cell], to[i])) {
      column[cell] = to[i];
      changed.add(cell);
    }
  }
}

/** @param {Uint32Array} nodes the node of each cell, equal ones side by side @returns {Run[]} */
function runsOf(nodes) {
  const runs = [];
  for (let cell = 0; cell < nodes.length; cell += 1) {
    if (cell === 0 || nodes[cell] !== nodes[cell - 1]) runs.push({ node: nodes[cell], first: cell, n: 0 });
    runs.at(-1).n += 1;
  }
  return runs;
}

/**
 * Look up what the exporter knows of the instance under the pointer, without a flood of questions.
 *
 * In:   ids, as fast as a pointer passes over them.
 * Out:  calls with what was found: only for an id on which it rested, one question at a time, the
 *       latest wins, and none twice within one revision.
 */

import { fetchInstance } from "./client.js";

const REST_MS = 150;

export class Lookups {
  /** @param {(id: string, found: Object | null) => void} onFound */
  constructor(onFound) {
    this.#onFound = onFound;
  }

  #onFound;
  #timer = 0;
  #wanted = null;
  #isAsking = false;
  #revision = -1;
  #known = new Map();

  /** @param {string | null} id null: none any more @param {number} revision of the fleet */
  want(id, revision) {
    clearTimeout(this.#timer);
    if (revision !== this.#revision) this.#known.clear();
    this.#revision = revision;
    this.#wanted = id;
    if (id === null) return;
    if (this.#known.has(id)) this.#onFound(id, this.#known.get(id));
    else this.#timer = setTimeout(() => this.#ask(), REST_MS);
  }

  async #ask() {
    if (this.#isAsking) return;
    this.#isAsking = true;
    const [id, revision] = [this.#wanted, this.#revision];
    // The updates say it loudly enough where the exporter does not answer.
    const found = await fetchInstance(id).catch(() => null);
    this.#isAsking = false;
    if (revision === this.#revision) this.#known.set(id, found);
    if (this.#wanted === id) this.#onFound(id, found);
    else if (this.#wanted !== null) this.#ask();
  }
}

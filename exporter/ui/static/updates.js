/**
 * Keep the page up to date: the map at first, then what has changed, again and again.
 *
 * In:   what is shown now; a Listener.
 * Out:  calls of the Listener with each answer and each failure; one question at a time, none
 *       while the tab is hidden.
 */

import { NotLoggedIn, Refused, Unanswered, fetchChanges, fetchMap } from "./client.js";

/**
 * @typedef {Object} Listener
 * @property {() => import("./fleet.js").Fleet | null} fleet what the page has; null before the first map
 * @property {() => string} value what colours the cells
 * @property {(text: string) => void} onMap a map's JSON
 * @property {(text: string) => boolean} onChanges the JSON of changes since the fleet's revision; false: they
 *   are of another layout, and a map is wanted
 * @property {(error: Error) => void} onFailure also when an answer is late, which may come all the same
 */

const FIRST_RETRY_MS = 1_000;
const LAST_RETRY_MS = 10_000;
/** So long people need not know that an answer is awaited. */
const LATE_MS = 3_000;

export class Updates {
  /** @param {Listener} listener */
  constructor(listener) {
    this.#listener = listener;
    document.addEventListener("visibilitychange", () => this.askNow());
  }

  #listener;
  #timer = 0;
  #isAsking = false;
  #isWantedAgain = false;
  #failures = 0;

  /** Ask as soon as no other question is open. */
  askNow() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    if (this.#isAsking) this.#isWantedAgain = true;
    else this.#turn();
  }

  async #turn() {
    this.#isAsking = true;
    this.#isWantedAgain = false;
    const late = setTimeout(() => this.#listener.onFailure(new Unanswered("not yet")), LATE_MS);
    try {
      await this.#ask();
      this.#failures = 0;
    } catch (error) {
      this.#failures += 1;
      if (!(error instanceof Refused || error instanceof Unanswered)) reportError(error);
      this.#listener.onFailure(error);
      if (error instanceof NotLoggedIn) return;
    } finally {
      clearTimeout(late);
      this.#isAsking = false;
    }
    if (this.#isWantedAgain) this.askNow();
    else if (!document.hidden) this.#timer = setTimeout(() => this.askNow(), this.#waitMs());
  }

  async #ask() {
    const fleet = this.#listener.fleet();
    if (fleet === null) return this.#askMap();
    const { layout, revision } = fleet;
    const value = this.#listener.value();
    const isFull = value !== "status" && fleet.value?.name !== value;
    const text = await fetchChanges({ layout, revision, value, isFull });
    if (!this.#listener.onChanges(text)) await this.#askMap();
  }

  async #askMap() {
    this.#listener.onMap(await fetchMap(this.#listener.value()));
  }

  #waitMs() {
    if (this.#failures > 0) return Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** (this.#failures - 1));
    return this.#listener.fleet().refreshSeconds * 1000;
  }
}

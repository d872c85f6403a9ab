/**
 * Tell screen readers what has changed in the totals, sparingly, and what a choice has led to.
 *
 * In:   summaries; sentences.
 * Out:  a text in a live region, of the totals at most one each ten seconds.
 */

import { byId } from "./elements.js";
import { count, counted } from "./words.js";

const QUIET_MS = 10_000;
const TOLD = Object.freeze(["unreachable", "unhealthy"]);

export class Announcer {
  #told = null;
  #toldAt = -Infinity;

  /** @param {Object} summary */
  hear({ instances }) {
    const before = this.#told ?? instances;
    this.#told ??= instances;
    const sentences = TOLD.flatMap((status) => sentencesOf(status, before[status], instances[status]));
    if (sentences.length === 0 || performance.now() - this.#toldAt < QUIET_MS) return;
    this.#told = instances;
    this.#toldAt = performance.now();
    this.say(sentences.join(" "));
  }

  /** @param {string} text what somebody has just brought about */
  say(text) {
    byId("announcements").textContent = text;
  }
}

/** @returns {string[]} none or one */
export function sentencesOf(status, before, now) {
  const change = now - before;
  if (change === 0) return [];
  if (change > 0) return [`${counted(change, "instance")} became ${status}; ${areNow(now)}.`];
  return [`${counted(-change, "instance")} ${change === -1 ? "is" : "are"} no longer ${status}; ${areNow(now)}.`];
}

function areNow(n) {
  if (n === 0) return "none is now";
  return n === 1 ? "1 is now" : `${count(n)} are now`;
}

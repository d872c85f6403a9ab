/**
 * What is wrong with what the page shows: no answers, or old ones.
 *
 * In:   answers and failures of the exporter, and faults of the page's own.
 * Out:  a banner with words, a grey map while there are no answers.
 */

import { NotLoggedIn, Refused, Unanswered } from "./client.js";
import { byId, write } from "./elements.js";
import { clock } from "./words.js";

const INTERVALS_UNTIL_OLD = 3;
/** Moments that are told anew by their age are not the same to the millisecond. */
const SAME_WITHIN_S = 2;

export class Banner {
  /** Of the last answer; before the first one, of the page. */
  #answeredAtS = Date.now() / 1000;
  #hasAnswered = false;
  #cycleEnded = new Moment();
  #inventoryRead = new Moment();

  constructor() {
    // The dialog of a narrow window begins below what stands here.
    new ResizeObserver(([{ target }]) =>
      document.body.style.setProperty("--banners", `${target.getBoundingClientRect().height}px`),
    ).observe(byId("banners"));
  }

  /** @param {import("./fleet.js").Fleet} fleet as the exporter has just told it */
  answered(fleet) {
    this.#answeredAtS = Date.now() / 1000;
    this.#hasAnswered = true;
    this.#say("failure", "");
    this.#say("notice", this.#noticeOf(fleet));
    document.body.classList.remove("unanswered");
  }

  /** @param {Error} error */
  failed(error) {
    this.#say("failure", this.#failureOf(error));
    this.#say("notice", "");
    document.body.classList.add("unanswered");
  }

  #failureOf(error) {
    const since = clock(this.#answeredAtS);
    if (error instanceof NotLoggedIn) return "The exporter requires a login: reload and log in.";
    const shown = this.#hasAnswered ? " The data shown is from then." : "";
    if (error instanceof Refused) return `The exporter gives no data since ${since}: ${error.message}.${shown}`;
    if (error instanceof Unanswered) return `The exporter does not answer since ${since}.${shown}`;
    return `Bug in the web UI: nothing new is shown since ${since}. Reload it. (${error.message})`;
  }

  #noticeOf(fleet) {
    return [this.#cycleNotice(fleet), this.#inventoryNotice(fleet)].filter(Boolean).join(" ");
  }

  #cycleNotice({ summary, size, pollIntervalSeconds }) {
    const age = summary.last_cycle_age_seconds;
    // Of an inventory that was never read nobody knows what it holds: no cycle covers the whole fleet.
    if (summary.inventory_age_seconds === null && (size === 0 || age === null)) return "";
    if (size === 0) return "The inventory is empty.";
    if (age === null) return "The first poll cycle is running: some instances have not been polled yet.";
    if (age <= INTERVALS_UNTIL_OLD * pollIntervalSeconds) return "";
    return `The exporter answers, but its last poll cycle ended at ${this.#cycleEnded.clock(age)}: the data is old.`;
  }

  #inventoryNotice({ summary, inventoryRefreshSeconds }) {
    const age = summary.inventory_age_seconds;
    if (age === null) return "An inventory source was never read: its instances are missing.";
    if (age <= INTERVALS_UNTIL_OLD * inventoryRefreshSeconds) return "";
    return `The inventory was last read at ${this.#inventoryRead.clock(age)}: later changes are missing.`;
  }

  #say(id, text) {
    write(byId(id), text);
    byId(id).hidden = text === "";
  }
}

/** A moment that is told by its age: said anew only where it is another one. */
class Moment {
  #atS = -Infinity;

  /** @param {number} ageSeconds @returns {string} the time of day */
  clock(ageSeconds) {
    const atS = Date.now() / 1000 - ageSeconds;
    if (Math.abs(atS - this.#atS) > SAME_WITHIN_S) this.#atS = atS;
    return clock(this.#atS);
  }
}

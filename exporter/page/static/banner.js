/**
 * What is wrong with what the page shows: no answers, or old ones.
 *
 * In:   answers and failures of the exporter.
 * Out:  a banner with words, a grey map while there are no answers.
 */

import { NotLoggedIn, Refused } from "./client.js";
import { byId, write } from "./elements.js";
import { clock, span } from "./words.js";

const INTERVALS_UNTIL_OLD = 3;

export class Banner {
  /** Of the last answer; before the first one, of the page. */
  #answeredAtS = Date.now() / 1000;
  #hasAnswered = false;

  /** @param {import("./fleet.js").Fleet} fleet as the exporter has just told it */
  answered(fleet) {
    this.#answeredAtS = Date.now() / 1000;
    this.#hasAnswered = true;
    this.#say("failure", "");
    this.#say("notice", noticeOf(fleet));
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
    if (error instanceof NotLoggedIn) return "The exporter wants a login: reload the page and log in.";
    const shown = this.#hasAnswered ? " What you see is from then." : "";
    if (error instanceof Refused) return `The exporter gives no data since ${since}: ${error.message}.${shown}`;
    return `The exporter does not answer since ${since}.${shown}`;
  }

  #say(id, text) {
    write(byId(id), text);
    byId(id).hidden = text === "";
  }
}

function noticeOf({ summary, size, pollIntervalSeconds }) {
  const age = summary.last_pass_age_seconds;
  if (size === 0) return "The inventory holds no instance.";
  if (age === null) return "The first pass over the fleet is under way: not every instance has been asked yet.";
  if (age <= INTERVALS_UNTIL_OLD * pollIntervalSeconds) return "";
  return `The exporter answers, but its last whole pass over the fleet ended ${span(age)} ago.`;
}

/**
 * Everything there is to say of one instance, beside the map.
 *
 * In:   an id.
 * Out:  an open dialog, whose texts change only where something is new: what a person has marked in
 *       them stays marked.
 */

import { fetchInstance, instanceUrl } from "./client.js";
import { byId, make, write } from "./elements.js";
import { bytes, conditions, count, decimal, latency, placeWords, span } from "./words.js";

const TITLES = {
  id: "Id",
  status: "Status",
  failing_seconds: "Failing for",
  is_transient: "Comes and goes",
  conditions: "Condition",
  state: "State in the inventory",
  node: "Node",
  model: "Model",
  developer: "Developer",
  engine: "Engine",
  version: "Version",
  start_time_seconds: "Started",
  tokens_per_second: "Tokens per second",
  loaded_models: "Loaded models",
  n_installed_models: "Number of installed models",
  installed_models: "Names of installed models",
  canary_outcome: "Last canary",
  canary_error: "Error of the canary",
  canary_age_seconds: "Last canary began",
  canary_stalled: "Canaries stalled in a row",
  canary_duration_seconds: "Canary took",
  canary_time_to_first_token_seconds: "Canary's first token after",
  canary_waiting_seconds: "Canary waited",
  canary_load_seconds: "Canary loaded the model for",
  canary_tokens_per_second: "Canary's tokens per second",
  url: "URL",
  last_outcome: "Last poll",
  last_error: "Error of the last poll",
  metrics_outcome: "Metrics of the last poll",
  metrics_error: "Error of the metrics",
  age_seconds: "Last poll began",
  latency_seconds: "Last poll took",
  last_failure_outcome: "Last failure",
  last_failure: "Error of the last failure",
  last_failure_age_seconds: "Last failure was",
  labels: "Labels",
};
const WORDS = {
  age_seconds: (seconds) => `${span(seconds)} ago`,
  last_failure_age_seconds: (seconds) => `${span(seconds)} ago`,
  latency_seconds: latency,
  start_time_seconds: (seconds) => `${span(Date.now() / 1000 - seconds)} ago`,
  tokens_per_second: decimal,
  failing_seconds: span,
  is_transient: () => "on purpose",
  conditions,
  loaded_models: (models) => models.map(modelWords).join("\n") || "none",
  installed_models: (names) => names.join(", ") || "none",
  canary_outcome: (outcome) => outcome.replaceAll("_", " "),
  canary_age_seconds: (seconds) => `${span(seconds)} ago`,
  canary_duration_seconds: latency,
  canary_time_to_first_token_seconds: latency,
  canary_waiting_seconds: latency,
  canary_load_seconds: latency,
  canary_tokens_per_second: decimal,
  labels: (labels) => Object.entries(labels).map(([key, value]) => `${key}=${value}`).join(", "),
};

export class Details {
  /** @param {() => void} onClose called when a person has closed it */
  constructor(onClose) {
    this.#onClose = onClose;
    byId("details-close").addEventListener("click", () => this.#leave());
    document.addEventListener("keydown", (event) => {
      // In a field, Escape is about what is being typed.
      if (event.key === "Escape" && this.#id !== null && !event.target.closest("input, select")) this.#leave();
    });
  }

  #onClose;
  #id = null;
  #asking = null;
  #before = null;
  /** @type {Map<string, {term: HTMLElement, text: HTMLElement}>} */
  #rows = new Map();

  /** Show this instance, or none. @param {string | null} id */
  show(id) {
    if (id === this.#id) return;
    if (id === null) this.#close();
    else this.#open(id);
  }

  /** Ask again for what is shown. */
  async refresh() {
    const id = this.#id;
    if (id === null || id === this.#asking) return;
    this.#asking = id;
    try {
      const found = await fetchInstance(id);
      if (id === this.#id) this.#fill(found);
    } catch {
      if (id === this.#id) this.unanswered();
    }
    if (id === this.#asking) this.#asking = null;
  }

  /** Say that what is shown may be old. */
  unanswered() {
    if (this.#id !== null) write(byId("details-state"), "The exporter has no news of it; this may be old.");
  }

  #open(id) {
    if (this.#id === null) this.#before = document.activeElement;
    this.#id = id;
    this.#rows.clear();
    byId("details-list").replaceChildren();
    write(byId("details-title"), id);
    write(byId("details-state"), "Asking the exporter …");
    byId("details-json").href = instanceUrl(id);
    if (!byId("details").open) byId("details").show();
    this.refresh();
  }

  #leave() {
    this.#close();
    this.#onClose();
  }

  #close() {
    this.#id = null;
    byId("details").close();
    placeOf(this.#before)?.focus({ preventScroll: true });
    this.#before = null;
  }

  #fill(found) {
    if (found === null) return write(byId("details-state"), "The inventory has no instance of this id.");
    write(byId("details-state"), "");
    const keys = Object.keys(TITLES).filter((key) => key in found);
    const others = Object.keys(found).filter((key) => !(key in TITLES) && typeof found[key] !== "object");
    const wanted = [...keys, ...others];
    for (const key of this.#rows.keys()) if (!wanted.includes(key)) this.#drop(key);
    for (const [at, key] of wanted.entries()) write(this.#row(key, at).text, wordsOf(key, found[key]));
  }

  #row(key, at) {
    if (!this.#rows.has(key)) {
      const row = { term: make("dt", { textContent: TITLES[key] ?? key }), text: make("dd") };
      const list = byId("details-list");
      const next = list.children[2 * at] ?? null;
      list.insertBefore(row.term, next);
      list.insertBefore(row.text, next);
      this.#rows.set(key, row);
    }
    return this.#rows.get(key);
  }

  #drop(key) {
    const { term, text } = this.#rows.get(key);
    term.remove();
    text.remove();
    this.#rows.delete(key);
  }
}

/** @returns {string} "phi3: 4 GB, 1 GB of it off the GPU, context 4,096, unloaded in 5 min" */
function modelWords({ model, bytes: size, vram_bytes: vram, context_length: context, ...rest }) {
  const { expires_timestamp_seconds: expires, never_expires: isPinned } = rest;
  const facts = [
    ...(size === undefined ? [] : [bytes(size)]),
    ...(size === undefined || vram === undefined ? [] : [placeWords(size, vram)]),
    ...(context === undefined ? [] : [`context ${count(context)}`]),
    ...(expires === undefined ? [] : [`unloaded in ${span(expires - Date.now() / 1000)}`]),
    ...(isPinned ? ["never unloaded"] : []),
  ];
  return facts.length > 0 ? `${model}: ${facts.join(", ")}` : model;
}

function wordsOf(key, value) {
  return (WORDS[key] ?? String)(value);
}

/** Return what to give the focus back to; the same instance's row of the table may be another element by now. */
function placeOf(before) {
  if (before === null || before.isConnected) return before;
  const id = CSS.escape(before.dataset.worst ?? "");
  return document.querySelector(`[data-worst="${id}"]`) ?? byId("worst-room");
}

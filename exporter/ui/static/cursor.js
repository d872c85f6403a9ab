/**
 * The one cell that a person looks at, by pointer or keyboard, and the words about it.
 *
 * In:   events of the canvas; where cells are and what they are.
 * Out:  a frame around the cell, a tip beside it, words for screen readers, and calls when it is
 *       opened.
 */

import { byId, make, place, write } from "./elements.js";
import { boxOf, cellAt, neighbour } from "./layout.js";
import { Lookups } from "./lookups.js";
import { conditions as conditionWords, span, value as valueWords } from "./words.js";

const TIP_GAP = 14;
const NO_FAILURE = Object.freeze({ tip: "", words: "", isNow: false });

/**
 * @typedef {Object} Failure
 * @property {string} tip
 * @property {string} words the same without an age, which is another one at each look
 * @property {boolean} isNow
 */

/**
 * @typedef {Object} Shown
 * @property {import("./fleet.js").Fleet} fleet
 * @property {import("./layout.js").Layout} layout
 * @property {string} value what colours the cells
 */

export class Cursor {
  /** @param {HTMLCanvasElement} canvas @param {() => Shown | null} shown @param {(id: string) => void} onOpen */
  constructor(canvas, shown, onOpen) {
    this.#canvas = canvas;
    this.#shown = shown;
    this.#onOpen = onOpen;
    this.#lookups = new Lookups((id, found) => this.#showFound(id, found));
    canvas.addEventListener("pointermove", (event) => this.#point(event));
    canvas.addEventListener("pointerleave", () => this.hide());
    canvas.addEventListener("click", (event) => this.#click(event));
    canvas.addEventListener("keydown", (event) => this.#press(event));
    canvas.addEventListener("focus", () => this.#focus());
    canvas.addEventListener("blur", () => this.hide());
  }

  #canvas;
  #shown;
  #onOpen;
  #lookups;
  #cell = -1;
  #id = null;
  #isByKeyboard = false;
  #isShown = false;
  /** What was found of this cell's instance last. @type {Failure} */
  #failure = NO_FAILURE;

  /** Show the cell again, which may be elsewhere now, or be another one's, or have another value. */
  refresh() {
    const shown = this.#shown();
    if (shown === null) return;
    // Without a frame too: the keyboard goes on from the instance, not from where it was.
    if (shown.fleet.ids[this.#cell] !== this.#id) this.#cell = shown.fleet.cellOf(this.#id);
    if (!this.#isShown) return;
    if (this.#cell < 0) this.hide();
    else this.#show(this.#cell);
  }

  /** Take frame and tip away; the keyboard goes on from here. */
  hide() {
    this.#isShown = false;
    this.#lookups.want(null, this.#shown()?.fleet.revision ?? -1);
    byId("cursor").hidden = true;
    byId("tip").hidden = true;
    // Read again when it is shown again.
    this.#read([], "");
  }

  #point(event) {
    const cell = this.#cellUnder(event);
    if (cell < 0) return this.hide();
    this.#isByKeyboard = false;
    if (cell !== this.#cell || !this.#isShown) this.#show(cell);
  }

  #click(event) {
    const cell = this.#cellUnder(event);
    if (cell < 0) return;
    this.#moveTo(cell);
    this.#onOpen(this.#id);
  }

  #cellUnder(event) {
    const shown = this.#shown();
    return shown === null ? -1 : cellAt(shown.layout, event.offsetX, event.offsetY);
  }

  #focus() {
    // A click focuses too: it has its own cell.
    if (!this.#canvas.matches(":focus-visible") || !this.#hasCells()) return;
    this.#goTo(Math.max(0, this.#cell));
  }

  /** Show a cell that the keyboard leads to; the map scrolls there this once. */
  #goTo(cell) {
    this.#isByKeyboard = true;
    this.#show(cell);
    byId("cursor").scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  #hasCells() {
    return (this.#shown()?.fleet.size ?? 0) > 0;
  }

  #press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.#hasCells()) return;
    if (event.key === "Enter" && this.#cell >= 0) this.#onOpen(this.#id);
    else if (event.key === "Escape") this.hide();
    else if (!this.#step(event.key)) return;
    event.preventDefault();
  }

  #step(key) {
    const cell = neighbour(this.#shown().layout, Math.max(0, this.#cell), key);
    if (cell === null) return false;
    this.#goTo(this.#cell < 0 ? 0 : cell);
    return true;
  }

  #show(cell) {
    this.#moveTo(cell);
    this.#isShown = true;
    this.#tell();
    this.#lookups.want(this.#id, this.#shown().fleet.revision);
  }

  #moveTo(cell) {
    const id = this.#shown().fleet.ids[cell];
    if (id !== this.#id) this.#failure = NO_FAILURE;
    this.#cell = cell;
    this.#id = id;
  }

  #tell() {
    const { fleet, layout, value } = this.#shown();
    const box = boxOf(layout, this.#cell);
    this.#frame(box);
    const lines = linesOf(fleet, this.#cell, value);
    this.#fillTip(lines);
    this.#placeTip(box);
    if (this.#isByKeyboard) this.#read(lines, this.#failure.words);
    else this.#read([], "");
  }

  #fillTip(lines) {
    const spans = [...byId("tip-lines").children];
    place(byId("tip-lines"), lines.map((_, at) => spans[at] ?? make("span")));
    lines.forEach((text, at) => write(byId("tip-lines").children[at], text));
    write(byId("tip-failure"), this.#failure.tip);
    byId("tip-failure").className = this.#failure.isNow ? "trouble" : "";
  }

  /** Screen readers read a part when its words are other ones, so the same words are not written again. */
  #read(lines, failure) {
    write(byId("reader-cell"), lines.join(", "));
    write(byId("reader-failure"), failure && `, ${failure}`);
  }

  #frame({ x, y, size }) {
    const frame = byId("cursor");
    frame.hidden = false;
    Object.assign(frame.style, { left: `${x - 2}px`, top: `${y - 2}px`, width: `${size}px`, height: `${size}px` });
  }

  /** Below the cell and to its right, or on the other side where the window ends. */
  #placeTip({ x, y, size }) {
    const tip = byId("tip");
    tip.hidden = false;
    const canvas = this.#canvas.getBoundingClientRect();
    const [left, top] = [canvas.left + x + size + TIP_GAP, canvas.top + y + size + TIP_GAP];
    const [right, bottom] = [left + tip.offsetWidth, top + tip.offsetHeight];
    const across = right > window.innerWidth ? left - tip.offsetWidth - size - 2 * TIP_GAP : left;
    const down = bottom > window.innerHeight ? top - tip.offsetHeight - size - 2 * TIP_GAP : top;
    tip.style.left = `${Math.max(4, across)}px`;
    tip.style.top = `${Math.max(4, down)}px`;
  }

  #showFound(id, found) {
    if (!this.#isShown || id !== this.#id || found === null) return;
    this.#failure = failureOf(found);
    this.#tell();
  }
}

function linesOf(fleet, cell, value) {
  const developer = fleet.developers[fleet.developer[cell]];
  return [
    fleet.ids[cell],
    `node: ${fleet.nodes[fleet.node[cell]]}`,
    `model: ${fleet.models[fleet.model[cell]]}`,
    ...(developer ? [`developer: ${developer}`] : []),
    `status: ${fleet.statuses[fleet.status[cell]]}`,
    ...(fleet.conditions[cell] ? [`condition: ${conditionWords(fleet.conditionsOf(cell))}`] : []),
    ...(value === "status" ? [] : [valueWords(value, fleet.valueOf(cell, value))]),
  ];
}

/** @returns {Failure} */
function failureOf(found) {
  const { last_error: error, metrics_error: metricsError } = found;
  const { last_failure: failure, last_failure_age_seconds: age } = found;
  if (error) return { tip: error, words: error, isNow: true };
  if (metricsError) return { tip: `metrics: ${metricsError}`, words: `metrics: ${metricsError}`, isNow: false };
  if (!failure) return NO_FAILURE;
  return { tip: `failed ${span(age)} ago: ${failure}`, words: `failed before: ${failure}`, isNow: false };
}

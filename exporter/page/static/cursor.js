/**
 * The one cell that a person looks at, by pointer or keyboard, and the words about it.
 *
 * In:   events of the canvas; where cells are and what they are.
 * Out:  a frame around the cell, a tip beside it, words for screen readers, and calls when it is
 *       opened.
 */

import { byId, make, write } from "./elements.js";
import { boxOf, cellAt, neighbour } from "./layout.js";
import { Lookups } from "./lookups.js";
import { span, value as valueWords } from "./words.js";

const TIP_GAP = 14;

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

  /** Show the cell again, which may be elsewhere now, or be another one's, or have another value. */
  refresh() {
    const shown = this.#shown();
    if (!this.#isShown || shown === null) return;
    if (shown.fleet.ids[this.#cell] !== this.#id) this.#cell = shown.fleet.cellOf(this.#id);
    if (this.#cell < 0) this.hide();
    else this.#show(this.#cell);
  }

  /** Take frame and tip away; the keyboard goes on from here. */
  hide() {
    this.#isShown = false;
    this.#lookups.want(null, this.#shown()?.fleet.revision ?? -1);
    byId("cursor").hidden = true;
    byId("tip").hidden = true;
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
    this.#cell = cell;
    this.#onOpen(this.#shown().fleet.ids[cell]);
  }

  #cellUnder(event) {
    const shown = this.#shown();
    return shown === null ? -1 : cellAt(shown.layout, event.offsetX, event.offsetY);
  }

  #focus() {
    // A click focuses too: it has its own cell.
    if (!this.#canvas.matches(":focus-visible") || !this.#hasCells()) return;
    this.#isByKeyboard = true;
    this.#show(Math.max(0, this.#cell));
  }

  #hasCells() {
    return (this.#shown()?.fleet.size ?? 0) > 0;
  }

  #press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.#hasCells()) return;
    if (event.key === "Enter" && this.#cell >= 0) this.#onOpen(this.#shown().fleet.ids[this.#cell]);
    else if (event.key === "Escape") this.hide();
    else if (!this.#step(event.key)) return;
    event.preventDefault();
  }

  #step(key) {
    const cell = neighbour(this.#shown().layout, Math.max(0, this.#cell), key);
    if (cell === null) return false;
    this.#isByKeyboard = true;
    this.#show(this.#cell < 0 ? 0 : cell);
    return true;
  }

  #show(cell) {
    const { fleet, layout, value } = this.#shown();
    this.#cell = cell;
    this.#id = fleet.ids[cell];
    this.#isShown = true;
    const box = boxOf(layout, cell);
    this.#frame(box);
    const lines = linesOf(fleet, cell, value);
    byId("tip").replaceChildren(...lines.map((text) => make("span", { textContent: text })), make("em"));
    this.#placeTip(box);
    if (this.#isByKeyboard) write(byId("reader"), lines.join(", "));
    this.#lookups.want(this.#id, fleet.revision);
  }

  #frame({ x, y, size }) {
    const frame = byId("cursor");
    frame.hidden = false;
    Object.assign(frame.style, { left: `${x - 2}px`, top: `${y - 2}px`, width: `${size}px`, height: `${size}px` });
    if (this.#isByKeyboard) frame.scrollIntoView({ block: "nearest", inline: "nearest" });
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
    const text = failureOf(found);
    write(byId("tip").lastElementChild, text);
    byId("tip").lastElementChild.className = found.last_error ? "trouble" : "";
    const { layout } = this.#shown();
    this.#placeTip(boxOf(layout, this.#cell));
    if (text && this.#isByKeyboard) write(byId("reader"), `${byId("reader").textContent}, ${text}`);
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
    ...(value === "status" ? [] : [valueWords(value, fleet.valueOf(cell, value))]),
  ];
}

function failureOf(found) {
  const { last_error: error, metrics_error: metricsError } = found;
  const { last_failure: failure, last_failure_age_seconds: age } = found;
  if (error) return error;
  if (metricsError) return `metrics: ${metricsError}`;
  return failure ? `failed ${span(age)} ago: ${failure}` : "";
}

/**
 * Draw the map: cells, the names of the nodes, and a frame around nodes in trouble.
 *
 * In:   a canvas; a Scene of what to draw.
 * Out:  pixels. `repaint` touches only what looks different from what is there.
 */

import { BACKGROUNDS, dimmed } from "./colours.js";
import { blockOf, boxIn } from "./layout.js";
import { ownParts } from "./names.js";
import { troubleOf } from "./trouble.js";
import { NOT_KNOWN } from "./words.js";

/**
 * @typedef {Object} Scene
 * @property {import("./fleet.js").Fleet} fleet
 * @property {import("./layout.js").Layout} layout
 * @property {import("./colours.js").Scale} scale
 * @property {import("./filter.js").Match} match
 * @property {"light" | "dark"} scheme
 */

const FONT = "11px system-ui, sans-serif";
const BOLD_FONT = `bold ${FONT}`;
const INKS = { light: { name: "#4d5760", trouble: "#8c0d00" }, dark: { name: "#a5b0ba", trouble: "#ffb08a" } };
/** Smaller cells have no room for a hole. */
const SMALLEST_HOLLOW = 4;
/** Smaller cells are all mark. */
const SMALLEST_MARKED = 5;
const FRAME = 2;

export class FleetMap {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false });
  }

  #canvas;
  #context;
  /** @type {Scene | null} */
  #scene = null;
  /** What is drawn of each cell: its step, or that plus DIMMED. */
  #drawn = new Uint8Array();
  /** What is drawn beside each block's name. */
  #troubles = [];
  #looks = [];
  #ownNames = [];

  /** Draw everything. @param {Scene} scene */
  paint(scene) {
    this.#scene = scene;
    this.#looks = looksOf(scene);
    this.#ownNames = ownParts(scene.fleet.nodes);
    this.#drawn = new Uint8Array(scene.fleet.size);
    this.#fitCanvas();
    this.#fill(BACKGROUNDS[scene.scheme], 0, 0, scene.layout.width, scene.layout.height);
    this.#troubles = scene.layout.blocks.map((block) => troubleOf(scene.fleet, block, scene.scale));
    this.#paintAllCells();
    scene.layout.blocks.forEach((block, index) => this.#paintName(block, this.#troubles[index]));
  }

  /**
   * Draw the cells that look different now, and what stands around their nodes.
   *
   * @param {Iterable<number>} cells
   * @param {boolean} isEveryNode whether other nodes may be in trouble now
   */
  repaint(cells, isEveryNode = false) {
    const touched = new Set(isEveryNode ? this.#scene.layout.blocks.keys() : []);
    for (const cell of cells) {
      const index = blockOf(this.#scene.layout, cell);
      touched.add(index);
      const look = this.#lookOf(cell);
      if (look !== this.#drawn[cell]) this.#paintCell(this.#scene.layout.blocks[index], cell, look);
    }
    for (const index of touched) this.#repaintTrouble(index);
  }

  /** @returns {number[]} of the cells that the filters take, how many are on each step of the scale */
  counts() {
    const counts = this.#looks.map(() => 0);
    for (const look of this.#drawn) counts[look] += 1;
    return counts.slice(0, this.#scene.scale.steps.length);
  }

  #fitCanvas() {
    const { width, height } = this.#scene.layout;
    const ratio = window.devicePixelRatio;
    const [across, down] = [Math.round(width * ratio), Math.round(height * ratio)];
    // Giving a canvas its size clears it and takes long, also where the size is the same.
    if (this.#canvas.width !== across) this.#canvas.width = across;
    if (this.#canvas.height !== down) this.#canvas.height = down;
    this.#canvas.style.width = `${width}px`;
    this.#canvas.style.height = `${height}px`;
  }

  /** Paint colour by colour: that is several times as fast as cell by cell. */
  #paintAllCells() {
    const { fleet, layout } = this.#scene;
    const cellsByLook = this.#looks.map(() => []);
    for (let cell = 0; cell < fleet.size; cell += 1) cellsByLook[this.#lookOf(cell)].push(cell);
    const blockByCell = new Uint32Array(fleet.size);
    layout.blocks.forEach((block, index) => blockByCell.fill(index, block.first, block.first + block.n));
    cellsByLook.forEach((cells, look) => {
      for (const cell of cells) this.#paintCell(layout.blocks[blockByCell[cell]], cell, look);
    });
  }

  #lookOf(cell) {
    const { fleet, scale, match } = this.#scene;
    const step = scale.stepOf(fleet.valueOf(cell, scale.name));
    return match.has(cell) ? step : step + scale.steps.length;
  }

  #paintCell(block, cell, look) {
    const { x, y, size } = boxIn(this.#scene.layout, block, cell);
    const { colour, isHollow, mark } = this.#looks[look];
    this.#drawn[cell] = look;
    this.#fill(colour, x, y, size, size);
    if (isHollow && size >= SMALLEST_HOLLOW) {
      this.#fill(BACKGROUNDS[this.#scene.scheme], x + 1, y + 1, size - 2, size - 2);
    }
    if (mark) this.#paintMark(mark, x, y, size);
  }

  #paintMark(colour, x, y, size) {
    const edge = size < SMALLEST_MARKED ? 0 : Math.floor(size / 3);
    this.#fill(colour, x + edge, y + edge, size - 2 * edge, size - 2 * edge);
  }

  #repaintTrouble(index) {
    const { fleet, layout, scale } = this.#scene;
    const trouble = troubleOf(fleet, layout.blocks[index], scale);
    if (trouble === this.#troubles[index]) return;
    this.#troubles[index] = trouble;
    this.#clearName(layout.blocks[index]);
    this.#paintName(layout.blocks[index], trouble);
  }

  #clearName(block) {
    const { scheme, layout } = this.#scene;
    const background = BACKGROUNDS[scheme];
    this.#fill(background, block.x, block.y - layout.labelHeight, block.width, layout.labelHeight);
    this.#frame(background, block);
  }

  #paintName(block, trouble) {
    const { layout, scheme } = this.#scene;
    if (trouble) this.#frame(INKS[scheme].trouble, block);
    if (!layout.labelHeight) return;
    const [context, ratio] = [this.#context, window.devicePixelRatio];
    context.save();
    context.scale(ratio, ratio);
    context.font = trouble ? BOLD_FONT : FONT;
    context.fillStyle = trouble ? INKS[scheme].trouble : INKS[scheme].name;
    context.fillText(this.#fitting(block.node, trouble, block.width), block.x, block.y - 4);
    context.restore();
  }

  /** Return what fits of a name and its trouble. */
  #fitting(node, trouble, width) {
    const [name, own] = [this.#scene.fleet.nodes[node], this.#ownNames[node]];
    const texts = [`${name} ${trouble}`.trim(), `${own} ${trouble}`.trim(), name, own];
    const fits = (text) => this.#context.measureText(text).width <= width;
    return texts.find(fits) ?? cut(own, fits);
  }

  #frame(colour, { x, y, columns, rows }) {
    const { pitch, size } = this.#scene.layout;
    const [right, bottom] = [x + (columns - 1) * pitch + size, y + (rows - 1) * pitch + size];
    const [width, height] = [right - x + 2 * FRAME, bottom - y + 2 * FRAME];
    this.#fill(colour, x - FRAME, y - FRAME, width, 1);
    this.#fill(colour, x - FRAME, bottom + FRAME - 1, width, 1);
    this.#fill(colour, x - FRAME, y - FRAME, 1, height);
    this.#fill(colour, right + FRAME - 1, y - FRAME, 1, height);
  }

  /** Fill a rectangle, to whole pixels of the screen, so that a cell painted twice is the same. */
  #fill(colour, x, y, width, height) {
    const ratio = window.devicePixelRatio;
    const [left, top] = [Math.round(x * ratio), Math.round(y * ratio)];
    const [right, bottom] = [Math.round((x + width) * ratio), Math.round((y + height) * ratio)];
    this.#context.fillStyle = colour;
    this.#context.fillRect(left, top, right - left, bottom - top);
  }
}

/** Return the end of a name, which tells more than its beginning. */
function cut(name, fits) {
  for (let from = 1; from < name.length; from += 1) {
    if (fits(`…${name.slice(from)}`)) return `…${name.slice(from)}`;
  }
  return "";
}

/** Return how a cell of each step looks, first those that the filters take, then those they leave out. */
function looksOf({ scale, scheme }) {
  const isHollow = (words) => words === (scale.name === "status" ? "unknown" : NOT_KNOWN);
  const taken = scale.steps.map(({ colour, words, mark }) => ({ colour, mark, isHollow: isHollow(words) }));
  const dim = (colour) => colour && dimmed(colour, BACKGROUNDS[scheme]);
  const left = taken.map((look) => ({ ...look, colour: dim(look.colour), mark: dim(look.mark) }));
  return [...taken, ...left];
}

/**
 * Where each cell of the map is: blocks of cells, one for each node, in rows of blocks.
 *
 * In:   how many cells each node has, and the room there is, in CSS pixels.
 * Out:  a frozen Layout; where a cell is, which one is at a point, and which lies next to it.
 * Pure. Everything lies on whole pixels.
 */

/**
 * @typedef {Object} Block
 * @property {number} node
 * @property {number} first its first cell
 * @property {number} n
 * @property {number} x of its cells, without the label
 * @property {number} y
 * @property {number} columns
 * @property {number} rows
 * @property {number} width at least what its cells need
 */

/**
 * @typedef {Object} Layout
 * @property {number} pitch from one cell to the next
 * @property {number} size of a cell; the rest of the pitch is a gap
 * @property {number} gap between blocks
 * @property {number} labelHeight 0: there is no room for names
 * @property {number} width
 * @property {number} height what the map needs, which may be more than there is
 * @property {Block[]} blocks
 * @property {{y: number, first: number, n: number}[]} shelves rows of blocks, from the top
 */

const PITCHES = [64, 56, 48, 40, 34, 29, 25, 22, 20, 18, 16, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2];
const LABEL_HEIGHT = 14;
const MARGIN = 4;
/** Blocks are at least this share as high as they are wide, or the other way round. */
const SLIMMEST = 0.4;
/** Tried in this order: names under which all is well if the cells need not be smaller than that. */
const MODES = [
  { labelHeight: LABEL_HEIGHT, blockWidth: 60, minPitch: 8 },
  { labelHeight: LABEL_HEIGHT, blockWidth: 26, minPitch: 5 },
  { labelHeight: 0, blockWidth: 0, minPitch: 2 },
];
/** Where even the smallest cells do not fit, the map is as high as these need it to be. */
const SCROLLING_PITCH = 4;
const SCROLLING_PITCH_OF_MANY = 3;
const MANY = 20_000;

/**
 * Find the largest cells that fit.
 *
 * @param {import("./fleet.js").Run[]} runs
 * @param {{width: number, height: number}} room
 * @returns {Layout}
 */
export function arrange(runs, { width, height }) {
  const plans = MODES.map((mode) => largestFitting(runs, mode, width, height));
  return place(runs, plans.find((plan) => plan !== null) ?? scrolling(runs, width), width);
}

function largestFitting(runs, mode, width, height) {
  const n = runs.reduce((sum, run) => sum + run.n, 0);
  for (const pitch of PITCHES) {
    if (pitch < mode.minPitch) return null;
    if (n * pitch * pitch > width * height) continue;
    const fitting = plansFor(runs, mode, pitch).find((plan) => measure(runs, plan, width) <= height);
    if (fitting) return fitting;
  }
  return null;
}

function scrolling(runs, width) {
  const n = runs.reduce((sum, run) => sum + run.n, 0);
  const pitch = n > MANY ? SCROLLING_PITCH_OF_MANY : SCROLLING_PITCH;
  return plansFor(runs, MODES.at(-1), pitch)[0];
}

/** Return plans with blocks of different shapes, that of the fewest holes first, then the squarest. */
function plansFor(runs, mode, pitch) {
  const usual = median(runs.map((run) => run.n));
  const side = Math.sqrt(usual);
  const least = Math.max(1, Math.round(side * SLIMMEST));
  const plans = [];
  for (let rows = least; rows <= Math.ceil(side / SLIMMEST); rows += 1) {
    const columns = Math.ceil(usual / rows);
    const badness = (rows * columns - usual) / usual + Math.abs(Math.log(rows / columns)) / 4;
    plans.push({ ...mode, pitch, rows, badness, gap: gapOf(mode, pitch) });
  }
  return plans.sort((one, other) => one.badness - other.badness);
}

function gapOf(mode, pitch) {
  return mode.labelHeight ? Math.max(4, Math.min(10, Math.round(pitch * 0.8))) : Math.max(2, pitch >> 1);
}

function measure(runs, plan, width) {
  let height = 0;
  for (const { shelf } of flow(runs, plan, width)) height = Math.max(height, shelf.y + shelf.height);
  return height + MARGIN;
}

/** Yield each run's shape and place: from left to right, then on the next shelf. */
function* flow(runs, plan, width) {
  let x = MARGIN;
  let shelf = { y: MARGIN, height: 0 };
  for (const run of runs) {
    const shape = shapeOf(run, plan, width);
    if (x > MARGIN && x + shape.width > width - MARGIN) {
      x = MARGIN;
      shelf = { y: shelf.y + shelf.height + plan.gap, height: 0 };
    }
    shelf.height = Math.max(shelf.height, plan.labelHeight + shape.rows * plan.pitch);
    yield { run, shape, x, shelf };
    x += shape.width + plan.gap;
  }
}

function shapeOf(run, plan, width) {
  const most = Math.max(1, Math.floor((width - 2 * MARGIN) / plan.pitch));
  const columns = Math.min(most, Math.ceil(run.n / plan.rows));
  const rows = Math.ceil(run.n / columns);
  return { columns, rows, width: Math.max(columns * plan.pitch, plan.blockWidth) };
}

function place(runs, plan, width) {
  const blocks = [];
  const shelves = [];
  for (const { run, shape, x, shelf } of flow(runs, plan, width)) {
    if (shelves.at(-1)?.y !== shelf.y) shelves.push({ y: shelf.y, first: blocks.length, n: 0 });
    shelves.at(-1).n += 1;
    blocks.push({ ...run, ...shape, x, y: shelf.y + plan.labelHeight });
  }
  const { pitch, gap, labelHeight } = plan;
  const height = measure(runs, plan, width);
  const size = pitch >= 4 ? pitch - 1 : pitch;
  return Object.freeze({ pitch, size, gap, labelHeight, width, height, blocks, shelves });
}

function median(numbers) {
  const sorted = [...numbers].sort((one, other) => one - other);
  return sorted[sorted.length >> 1] ?? 1;
}

/** @param {Layout} layout @param {number} cell @returns {number} the index of its block */
export function blockOf({ blocks }, cell) {
  let low = 0;
  let high = blocks.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (blocks[middle].first <= cell) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** @param {Layout} layout @param {number} cell @returns {{x: number, y: number, size: number}} */
export function boxOf(layout, cell) {
  return boxIn(layout, layout.blocks[blockOf(layout, cell)], cell);
}

/** @param {Layout} layout @param {Block} block of the cell @param {number} cell @returns {{x: number, y: number, size: number}} */
export function boxIn({ pitch, size }, block, cell) {
  const at = cell - block.first;
  const row = Math.floor(at / block.columns);
  return { x: block.x + (at - row * block.columns) * pitch, y: block.y + row * pitch, size };
}

/** @param {Layout} layout @param {number} x @param {number} y @returns {number} -1 where there is none */
export function cellAt(layout, x, y) {
  const shelf = layout.shelves.findLast((one) => one.y <= y);
  if (!shelf) return -1;
  const on = layout.blocks.slice(shelf.first, shelf.first + shelf.n);
  const block = on.findLast((one) => one.x <= x);
  if (!block || y < block.y) return -1;
  const column = Math.floor((x - block.x) / layout.pitch);
  const at = Math.floor((y - block.y) / layout.pitch) * block.columns + column;
  return column < block.columns && at < block.n ? block.first + at : -1;
}

/**
 * Return the cell that a key leads to, in the geometric sense; the same one at an edge.
 *
 * @param {Layout} layout
 * @param {number} cell
 * @param {string} key as KeyboardEvent names it
 * @returns {number | null} null: the key leads nowhere
 */
export function neighbour(layout, cell, key) {
  return STEPS[key]?.(layout, cell) ?? null;
}

const STEPS = {
  ArrowLeft: (layout, cell) => sideways(layout, cell, -1),
  ArrowRight: (layout, cell) => sideways(layout, cell, 1),
  ArrowUp: (layout, cell) => upright(layout, cell, -1),
  ArrowDown: (layout, cell) => upright(layout, cell, 1),
  PageUp: (layout, cell) => firstOf(layout, blockOf(layout, cell) - 1),
  PageDown: (layout, cell) => firstOf(layout, blockOf(layout, cell) + 1),
  Home: () => 0,
  End: ({ blocks }) => blocks.at(-1).first + blocks.at(-1).n - 1,
};

function firstOf({ blocks }, index) {
  return blocks[Math.max(0, Math.min(blocks.length - 1, index))].first;
}

function sideways(layout, cell, step) {
  const index = blockOf(layout, cell);
  const block = layout.blocks[index];
  const at = cell - block.first;
  const column = (at % block.columns) + step;
  if (column >= 0 && column < block.columns && at + step < block.n) return cell + step;
  const next = layout.blocks[index + step];
  // Blocks on another shelf are not beside this one.
  if (!next || next.y !== block.y) return cell;
  return cellIn(next, Math.floor(at / block.columns), step > 0 ? 0 : next.columns - 1);
}

function upright(layout, cell, step) {
  const index = blockOf(layout, cell);
  const block = layout.blocks[index];
  const at = cell - block.first;
  const row = Math.floor(at / block.columns) + step;
  if (row >= 0 && row < block.rows && at + step * block.columns < block.n) return cell + step * block.columns;
  const shelf = layout.shelves[layout.shelves.findIndex((one) => isOn(one, index)) + step];
  if (!shelf) return cell;
  return nearest(layout, shelf, boxIn(layout, block, cell).x, step);
}

function isOn(shelf, index) {
  return shelf.first <= index && index < shelf.first + shelf.n;
}

/** Return the cell of a shelf's near edge, coming from above (1) or below (-1), that is closest to x. */
function nearest(layout, shelf, x, step) {
  const on = layout.blocks.slice(shelf.first, shelf.first + shelf.n);
  const block = on.reduce((best, one) => (distance(layout, one, x) < distance(layout, best, x) ? one : best));
  return cellIn(block, step > 0 ? 0 : block.rows - 1, Math.round((x - block.x) / layout.pitch));
}

function distance({ pitch }, block, x) {
  return Math.max(block.x - x, x - (block.x + (block.columns - 1) * pitch), 0);
}

function cellIn(block, row, column) {
  const inside = Math.max(0, Math.min(block.columns - 1, column));
  const at = Math.min(row, block.rows - 1) * block.columns + inside;
  return block.first + Math.min(at, block.n - 1);
}

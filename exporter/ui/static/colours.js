/**
 * Colours of the cells: which one a value has, in the light and in the dark scheme.
 *
 * In:   what colours the cells, the latency that is still allowed, the scheme.
 * Out:  a frozen Scale: steps with a colour and words each, for cells and legend alike.
 * Every colour keeps a contrast of 3:1 to its background, and neighbours on a scale are told apart
 * without red and green. Steps, no gradient: noise within one step does not show.
 */

import { CONDITION, STATUSES } from "./view.js";
import { NOT_KNOWN, decimal, latency, span } from "./words.js";

/**
 * @typedef {Object} Step
 * @property {string} colour
 * @property {string} [mark] the colour of a mark within the cell
 * @property {string} words of the legend
 * @property {boolean} isBad so bad that a node with this median is marked
 */

/**
 * @typedef {Object} Scale
 * @property {string} name what it shows
 * @property {string} unit of the legend's words, or what they are of
 * @property {Step[]} steps the last one is for what is not known
 * @property {(value: string | number | null) => number} stepOf
 */

export const BACKGROUNDS = Object.freeze({ light: "#ffffff", dark: "#12171d" });

const STATUS_COLOURS = {
  healthy: { light: "#7f97a5", dark: "#4f6a79" },
  unhealthy: { light: "#d66a00", dark: "#ffa033" },
  unreachable: { light: "#a00020", dark: "#ff4f64" },
  loading: { light: "#9a6fd6", dark: "#c3a6ff" },
  starting: { light: "#2f86c9", dark: "#8fd0f0" },
  provisioning: { light: "#2a3c8f", dark: "#7d8cff" },
  draining: { light: "#7d6a4f", dark: "#cdbb9c" },
  away: { light: "#2f5d62", dark: "#9fc5b8" },
  unknown: { light: "#929292", dark: "#868e95" },
};
/** Of the mark in a healthy cell, and of one that is too small for a mark. */
const CONDITION_MARKS = { light: "#4d3d00", dark: "#ffe36e" };
/** From much slower than its peers, over as fast as they are, to faster. */
const SPEED_COLOURS = {
  light: ["#8c0d00", "#d14600", "#bd8437", "#88959f", "#4a8ccb", "#114d96"],
  dark: ["#ff3d3d", "#ffa044", "#c2a27c", "#67737d", "#62a8e6", "#b0dcff"],
};
/** From little to much, ever farther from the background. */
const AMOUNT_COLOURS = {
  light: ["#7096ab", "#3f83bd", "#4a58bd", "#85309c", "#97146f", "#4d0028"],
  dark: ["#566384", "#3d8ca3", "#35a58c", "#74c266", "#cfd648", "#fff59a"],
};
const NOT_KNOWN_COLOUR = { light: "#929292", dark: "#868e95" };

const STATUS_STEPS = [...STATUSES, CONDITION];
const SPEED_LIMITS = [65, 80, 90, 110, 125];
const ERROR_LIMITS = [1, 2, 6, 21, 101];
const AGE_LIMITS = [1, 24, 72, 168, 720];
/** Of the latency that is allowed: the third limit is that one itself. */
const LATENCY_SHARES = [1 / 3, 2 / 3, 1, 2, 5];
const USUAL_LATENCY_LIMIT_S = 0.15;

/**
 * @param {string} name what colours the cells
 * @param {{scheme: "light" | "dark", latencyLimitSeconds: number | null}} given
 * @returns {Scale}
 */
export function scaleFor(name, { scheme, latencyLimitSeconds }) {
  return Object.freeze(SCALES[name](scheme, latencyLimitSeconds ?? USUAL_LATENCY_LIMIT_S));
}

const SCALES = {
  status: (scheme) => ({
    name: "status",
    unit: "",
    steps: STATUS_STEPS.map((words) => ({ ...statusLook(words, scheme), words, isBad: false })),
    stepOf: (status) => STATUS_STEPS.indexOf(status),
  }),
  speed: (scheme) =>
    stepped("speed", "% of the peers' median", scheme, {
      palettes: SPEED_COLOURS,
      limits: SPEED_LIMITS,
      rangeOf: (step) => rangeWords(SPEED_LIMITS, step, decimal),
      isBad: (step) => step < 2,
    }),
  p99: (scheme, limitSeconds) => latencyScale("p99", "p99 latency", scheme, limitSeconds),
  canary: (scheme, limitSeconds) => latencyScale("canary", "duration of the last canary", scheme, limitSeconds),
  errors: (scheme) =>
    stepped("errors", "failed requests in 5 min", scheme, {
      palettes: AMOUNT_COLOURS,
      limits: ERROR_LIMITS,
      rangeOf: (step) => wholeRangeWords(ERROR_LIMITS, step),
      isBad: (step) => step >= 3,
    }),
  age: (scheme) =>
    stepped("age", "since it started", scheme, {
      palettes: AMOUNT_COLOURS,
      limits: AGE_LIMITS,
      rangeOf: (step) => rangeWords(AGE_LIMITS, step, (hours) => span(hours * 3600)),
      isBad: () => false,
    }),
};

function statusLook(words, scheme) {
  if (words !== CONDITION) return { colour: STATUS_COLOURS[words][scheme] };
  return { colour: STATUS_COLOURS.healthy[scheme], mark: CONDITION_MARKS[scheme] };
}

function latencyScale(name, unit, scheme, limitSeconds) {
  // Rounded to nanoseconds: 1,000 times 1.001 is less than 1,001 to a computer.
  const limits = LATENCY_SHARES.map((share) => Math.round(share * limitSeconds * 1e9) / 1e6);
  const scale = stepped(name, unit, scheme, {
    palettes: AMOUNT_COLOURS,
    limits,
    rangeOf: (step) => upToRangeWords(limits, step, (milliseconds) => latency(milliseconds / 1000)),
    isBad: (step) => step >= 3,
  });
  // A latency at its limit is one that is still allowed.
  return { ...scale, stepOf: (value) => stepUpTo(limits, value) };
}

function stepped(name, unit, scheme, { palettes, limits, rangeOf, isBad }) {
  const steps = palettes[scheme].map((colour, step) => ({ colour, words: rangeOf(step), isBad: isBad(step) }));
  const notKnown = { colour: NOT_KNOWN_COLOUR[scheme], words: NOT_KNOWN, isBad: false };
  return { name, unit, steps: [...steps, notKnown], stepOf: (value) => stepIn(limits, value) };
}

/** A value on a limit belongs to the step above it. */
function stepIn(limits, value) {
  if (value === null) return limits.length + 1;
  const step = limits.findIndex((limit) => value < limit);
  return step < 0 ? limits.length : step;
}

/** A value on a limit belongs to the step below it. */
function stepUpTo(limits, value) {
  if (value === null) return limits.length + 1;
  const step = limits.findIndex((limit) => value <= limit);
  return step < 0 ? limits.length : step;
}

function rangeWords(limits, step, words) {
  if (step === 0) return `under ${words(limits[0])}`;
  if (step === limits.length) return `from ${words(limits.at(-1))}`;
  return `${words(limits[step - 1])} – ${words(limits[step])}`;
}

function upToRangeWords(limits, step, words) {
  if (step === 0) return `up to ${words(limits[0])}`;
  if (step === limits.length) return `over ${words(limits.at(-1))}`;
  return rangeWords(limits, step, words);
}

/** Of whole numbers the last one is named that is still in the range. */
function wholeRangeWords(limits, step) {
  const first = step === 0 ? 0 : limits[step - 1];
  if (step === limits.length) return `from ${first}`;
  const last = limits[step] - 1;
  return first === last ? `${first}` : `${first} – ${last}`;
}

/**
 * @param {string} colour "#rrggbb"
 * @param {string} background "#rrggbb"
 * @returns {string} what is left of it in a cell that the filters leave out
 */
export function dimmed(colour, background) {
  const [one, other] = [channels(colour), channels(background)];
  const mixed = one.map((channel, at) => Math.round(channel * 0.16 + other[at] * 0.84));
  return `#${mixed.map((channel) => channel.toString(16).padStart(2, "0")).join("")}`;
}

function channels(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

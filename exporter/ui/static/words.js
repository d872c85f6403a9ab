/**
 * Write numbers, spans of time and moments as a person reads them.
 *
 * In:   plain values in the protocol's units.
 * Out:  text. What is not known is "not known", never 0.
 */

export const NOT_KNOWN = "not known";
const UNITS = [[86_400, "d"], [3_600, "h"], [60, "min"], [1, "s"]];

/** @param {number} number @returns {string} with its thousands parted: 10,000 */
export function count(number) {
  return Math.round(number).toLocaleString("en-GB");
}

/** @param {number} number @param {string} one @param {string} [many] @returns {string} "1 instance", "3 instances" */
export function counted(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** @param {number} number of any size @returns {string} at most two places, none where it is large */
export function decimal(number) {
  const places = Math.abs(number) >= 100 ? 0 : Math.abs(number) >= 10 ? 1 : 2;
  return number.toLocaleString("en-GB", { maximumFractionDigits: places });
}

/** @param {number | null} seconds @returns {string} in the two largest units: "3 d 4 h", "95 s" */
export function span(seconds) {
  if (seconds === null || Number.isNaN(seconds)) return NOT_KNOWN;
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 120) return `${whole} s`;
  const at = UNITS.findIndex(([size]) => whole >= size);
  const [size, unit] = UNITS[at];
  const rest = UNITS[at + 1] && Math.floor((whole % size) / UNITS[at + 1][0]);
  return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${UNITS[at + 1][1]}` : ""}`;
}

/** @param {number | null} seconds @returns {string} a short time, to the millisecond: "12 ms", "1.5 s" */
export function latency(seconds) {
  if (seconds === null) return NOT_KNOWN;
  return seconds < 1 ? `${decimal(seconds * 1000)} ms` : `${decimal(seconds)} s`;
}

const BYTES = [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "bytes"]];

/** @param {number} number @returns {string} as Ollama writes sizes: "4.9 GB" */
export function bytes(number) {
  const [size, unit] = BYTES.find(([least]) => number >= least) ?? BYTES.at(-1);
  return `${decimal(number / size)} ${unit}`;
}

/** @param {number} size in bytes @param {number} vram of them, on the GPU @returns {string} "2 GB of it off the GPU" */
export function placeWords(size, vram) {
  if (vram >= size) return "all of it on the GPU";
  return vram > 0 ? `${bytes(size - vram)} of it off the GPU` : "none of it on the GPU";
}

const CONDITION_WORDS = { kv_cache_full: "KV cache full", on_cpu: "on CPU" };

/** @param {string} name @returns {string} "model not loaded" */
export function condition(name) {
  return CONDITION_WORDS[name] ?? name.replaceAll("_", " ");
}

/** @param {string[]} names @returns {string} "model not loaded, on CPU" */
export function conditions(names) {
  return names.map(condition).join(", ");
}

/** @param {number} unixSeconds @returns {string} the time of day here: "21:03:10" */
export function clock(unixSeconds) {
  const date = new Date(unixSeconds * 1000);
  return [date.getHours(), date.getMinutes(), date.getSeconds()]
    .map((part) => String(part).padStart(2, "0"))
    .join(":");
}

/** Words for one value of each kind that colours the cells. */
const VALUE_WORDS = {
  status: (name) => name,
  speed: (percent) => `${count(percent)} % of its peers' speed`,
  p99: (milliseconds) => `p99 ${latency(milliseconds / 1000)}`,
  canary: (milliseconds) => `last canary took ${latency(milliseconds / 1000)}`,
  errors: (failed) => `${counted(failed, "error")} in 5 min`,
  age: (hours) => `started ${span(hours * 3600)} ago`,
};

const SHORT_WORDS = {
  status: (name) => name,
  speed: (percent) => `${count(percent)} %`,
  p99: (milliseconds) => latency(milliseconds / 1000),
  canary: (milliseconds) => latency(milliseconds / 1000),
  errors: (failed) => count(failed),
  age: (hours) => span(hours * 3600),
};

/** @param {string} name @param {string | number | null} value @returns {string} "71 % of its peers' speed" */
export function value(name, value) {
  return value === null ? `${TITLES[name].toLowerCase()} ${NOT_KNOWN}` : VALUE_WORDS[name](value);
}

/** @param {string} name @param {string | number | null} value @returns {string} "71 %" */
export function shortValue(name, value) {
  return value === null ? NOT_KNOWN : SHORT_WORDS[name](value);
}

/** What each kind of value is called. */
export const TITLES = Object.freeze({
  status: "Status",
  speed: "Speed against peers",
  p99: "p99 latency",
  canary: "Last canary",
  errors: "Errors in 5 min",
  age: "Age",
});

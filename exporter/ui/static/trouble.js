/**
 * Which nodes are in trouble as a whole, by what colours the cells.
 *
 * In:   a Fleet, one node's cells, a Scale.
 * Out:  short words to stand beside the node's name; empty where all is well.
 */

import { counted, shortValue } from "./words.js";

const FAILING = Object.freeze(["unhealthy", "unreachable"]);

/**
 * @param {import("./fleet.js").Fleet} fleet
 * @param {import("./fleet.js").Run} run
 * @param {import("./colours.js").Scale} scale
 * @returns {string} "70 %": the median value; or "12 of 100 failing"
 */
export function troubleOf(fleet, run, scale) {
  return scale.name === "status" ? failing(fleet, run) || slow(fleet, run) : badMedian(fleet, run, scale);
}

/** At least half of the instances: one that fails is seen by itself. */
function failing(fleet, { first, n }) {
  const codes = FAILING.map((status) => fleet.statuses.indexOf(status));
  let failed = 0;
  for (let cell = first; cell < first + n; cell += 1) failed += codes.includes(fleet.status[cell]) ? 1 : 0;
  return failed * 2 >= n && n > 1 ? `${failed} of ${counted(n, "fails", "fail")}` : "";
}

function slow(fleet, { node }) {
  const percent = fleet.slowNodes?.get(fleet.nodes[node]);
  return percent === undefined ? "" : `slow, ${shortValue("speed", percent)}`;
}

function badMedian(fleet, { first, n }, scale) {
  if (fleet.value?.name !== scale.name) return "";
  const known = fleet.value.values.slice(first, first + n).filter((value) => !Number.isNaN(value)).sort();
  const median = known[known.length >> 1];
  if (median === undefined || n === 1) return "";
  return scale.steps[scale.stepOf(median)].isBad ? shortValue(scale.name, median) : "";
}

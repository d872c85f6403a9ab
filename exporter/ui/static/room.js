/**
 * How much room there is for the map.
 *
 * In:   the page's layout, which style.css makes: beside the table, or above it on a narrow screen.
 * Out:  a width and a height in CSS pixels, and a call when they have changed.
 */

import { byId } from "./elements.js";

/** Side by side; style.css says the same. */
const WIDE = window.matchMedia("(min-width: 900px)");
const NARROW_SHARE = 0.7;
const LEAST_WIDTH = 120;

/** @returns {{width: number, height: number}} */
export function roomFor() {
  const { clientWidth, clientHeight } = byId("map-room");
  const height = WIDE.matches ? clientHeight : window.innerHeight * NARROW_SHARE;
  return { width: Math.max(LEAST_WIDTH, clientWidth), height: Math.floor(height) };
}

/** @returns {boolean} whether everything stands below each other */
export function isNarrow() {
  return !WIDE.matches;
}

/**
 * @param {() => void} onChange called between two frames, once for many changes
 * @param {() => void} onTurn called before, when the window has become narrow or wide
 */
export function watchRoom(onChange, onTurn) {
  let known = keyOf(roomFor());
  let frame = 0;
  const look = () => {
    const key = keyOf(roomFor());
    if (key !== known) onChange();
    known = key;
  };
  const observer = new ResizeObserver(() => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(look);
  });
  observer.observe(byId("map-room"));
  WIDE.addEventListener("change", onTurn);
  WIDE.addEventListener("change", look);
  window.addEventListener("resize", look);
}

/** Another window may have other pixels too. */
function keyOf({ width, height }) {
  return `${width} ${height} ${window.devicePixelRatio}`;
}

/**
 * Publish how long the page takes, as measures that tests and a browser's own tools read.
 *
 * In:   moments of performance.now().
 * Out:  `fleet:first-paint`, from the navigation to the first cells on the screen; `fleet:update`,
 *       the main thread's work for one answer after the first, of which the last hundred are kept.
 */

const FIRST_PAINT = "fleet:first-paint";
const UPDATE = "fleet:update";
const MOST_KEPT = 100;

/** Measure once the browser has drawn what was painted just now. */
export function measureFirstPaint() {
  requestAnimationFrame(() => setTimeout(() => performance.measure(FIRST_PAINT, { start: 0 }), 0));
}

/** @param {number} start */
export function measureUpdate(start) {
  if (performance.getEntriesByName(UPDATE).length >= MOST_KEPT) performance.clearMeasures(UPDATE);
  performance.measure(UPDATE, { start });
}

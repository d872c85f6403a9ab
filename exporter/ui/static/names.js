/**
 * What tells a node's name from the others', for where there is no room for the whole.
 *
 * In:   all names.
 * Out:  for each, its own part: "node-018.example.com" becomes "…018…" among its like.
 */

/** @param {string[]} names @returns {string[]} */
export function ownParts(names) {
  if (names.length < 2) return [...names];
  const start = commonStart(names);
  const rests = names.map((name) => name.slice(start.length));
  const end = reversed(commonStart(rests.map(reversed)));
  return rests.map((rest) => ownPart(rest, start, end));
}

function ownPart(rest, start, end) {
  const own = rest.slice(0, rest.length - end.length);
  return `${start && "…"}${own}${end && "…"}`;
}

/** Return what all begin with, up to a number: 018 and 019 differ in 018 and 019, not in 8 and 9. */
function commonStart(names) {
  // As arguments of one call, a hundred thousand names would be too many.
  let length = names.reduce((least, name) => Math.min(least, name.length), Infinity);
  for (const name of names) {
    while (!name.startsWith(names[0].slice(0, length))) length -= 1;
  }
  return names[0].slice(0, length).replace(/\d+$/, "");
}

function reversed(text) {
  return [...text].reverse().join("");
}

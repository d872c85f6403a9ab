/**
 * What a person has chosen to see, and its place in the page's address.
 *
 * In:   a query string.
 * Out:  a frozen View, and back. Keys and values that there are not are ignored.
 */

/**
 * @typedef {Object} View
 * @property {string} value what colours the cells, one of VALUES
 * @property {string | null} node
 * @property {string | null} model
 * @property {string | null} status
 * @property {string | null} condition
 * @property {string | null} developer null: whatever it is
 * @property {string | null} id the instance whose details are open
 * @property {"cards" | "map" | null} shape null: cards where the fleet is small
 */

export const VALUES = Object.freeze(["status", "speed", "p99", "canary", "errors", "age"]);
export const SHAPES = Object.freeze(["cards", "map"]);
export const FILTERS = Object.freeze(["node", "model", "status", "condition", "developer"]);

/** The statuses of an instance; the protocol's codes index the fleet's own list, which is the same. */
export const STATUSES = Object.freeze([
  "healthy", "unhealthy", "unreachable", "loading", "starting", "provisioning", "draining", "away",
  "unknown",
]);

/** What may be wrong with an instance whose status may be healthy, in the order of the protocol's bits. */
export const CONDITIONS = Object.freeze([
  "model_not_loaded", "model_not_installed", "nothing_loaded", "on_cpu", "stalled", "flapping",
  "not_serving", "kv_cache_full",
]);
/** How the map shows a healthy instance that has one of them. */
export const CONDITION = "condition";

/** @param {string} search `location.search` @returns {View} */
export function read(search) {
  const query = new URLSearchParams(search);
  const value = query.get("value");
  const shape = query.get("shape");
  const [status, condition] = [query.get("status"), query.get("condition")];
  return Object.freeze({
    value: VALUES.includes(value) ? value : "status",
    node: query.get("node"),
    model: query.get("model"),
    status: STATUSES.includes(status) ? status : null,
    condition: CONDITIONS.includes(condition) ? condition : null,
    developer: query.get("developer"),
    id: query.get("id"),
    shape: SHAPES.includes(shape) ? shape : null,
  });
}

/** @param {View} view @returns {string} a query string, empty or beginning with "?" */
export function write(view) {
  const query = filterQuery(view);
  if (view.id !== null) query.set("id", view.id);
  if (view.shape !== null) query.set("shape", view.shape);
  const chosen = view.value === "status" ? [] : [["value", view.value]];
  const text = new URLSearchParams([...chosen, ...query]).toString();
  return text && `?${text}`;
}

/** @param {View} view @returns {URLSearchParams} the filters that are set, as `/instances` takes them */
export function filterQuery(view) {
  const wanted = FILTERS.filter((key) => view[key] !== null);
  return new URLSearchParams(wanted.map((key) => [key, view[key]]));
}

/** @param {View} view @returns {boolean} whether any filter is set */
export function isFiltered(view) {
  return FILTERS.some((key) => view[key] !== null);
}

/** @param {View} one @param {View} other @returns {boolean} whether both show the same instances */
export function filtersEqual(one, other) {
  return FILTERS.every((key) => one[key] === other[key]);
}

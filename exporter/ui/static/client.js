/**
 * Ask the exporter.
 *
 * In:   what is wanted; every answer has a time limit.
 * Out:  what the answer's JSON says.
 * Fails with NotLoggedIn, Refused (the exporter answers, but not with this) or
 * Unanswered; never with anything else.
 */

import { filterQuery } from "./view.js";

export class Unanswered extends Error {}
export class Refused extends Error {}
export class NotLoggedIn extends Refused {}

const MAP_WITHIN_MS = 30_000;
const ANSWER_WITHIN_MS = 8_000;

/** @param {string} value @returns {Promise<string>} the map's JSON, with a value's column unless it is the status */
export function fetchMap(value) {
  return fetchText("/fleet/map", valueQuery(value), MAP_WITHIN_MS);
}

/**
 * @param {{layout: string, revision: number, value: string, isFull: boolean}} since
 * @returns {Promise<string>} the JSON of what has changed, or of another layout's name and nothing else
 */
export function fetchChanges({ layout, revision, value, isFull }) {
  const query = { layout, revision, ...valueQuery(value), ...(isFull ? { full: "value" } : {}) };
  return fetchText("/fleet/changes", query, ANSWER_WITHIN_MS);
}

/** @param {import("./view.js").View} view @returns {Promise<Object>} the worst instances that its filters take */
export async function fetchWorst(view) {
  const query = [["value", view.value], ...filterQuery(view)];
  return parsed(await fetchText("/fleet/worst", query, ANSWER_WITHIN_MS));
}

/** @param {string} id @returns {Promise<Object | null>} what there is to say of one; null: it is not there */
export async function fetchInstance(id) {
  const found = parsed(await fetchText("/instances", { id }, ANSWER_WITHIN_MS));
  return found[0] ?? null;
}

/** @param {string} id @returns {string} the address of what there is to say of one */
export function instanceUrl(id) {
  return `/instances?${new URLSearchParams({ id })}`;
}

/** @param {string} text @returns {any} */
export function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Refused("an answer that is no JSON");
  }
}

function valueQuery(value) {
  return value === "status" ? {} : { value };
}

async function fetchText(path, query, withinMs) {
  const { response, text } = await answerOf(`${path}?${new URLSearchParams(query)}`, withinMs);
  if (response.status === 401) throw new NotLoggedIn("401");
  if (!response.ok) throw new Refused(`status ${response.status} for ${path}`);
  return text;
}

async function answerOf(url, withinMs) {
  try {
    const response = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(withinMs) });
    return { response, text: await response.text() };
  } catch (error) {
    throw new Unanswered(error.message);
  }
}

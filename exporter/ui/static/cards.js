/**
 * A small fleet as cards, one for each instance, grouped by node.
 *
 * In:   a Scene, as the map has it.
 * Out:  buttons with name, model, speed and state; a call when one is pressed. Those that the
 *       filters leave out are hidden.
 */

import { byId, make, place, write } from "./elements.js";
import { troubleOf } from "./trouble.js";
import { CONDITION } from "./view.js";
import { conditions as conditionWords, decimal, shortValue } from "./words.js";

const MANY = 8;
const BAD = Object.freeze(["unhealthy", "unreachable"]);

export class Cards {
  /** @param {(id: string) => void} onOpen */
  constructor(onOpen) {
    this.#onOpen = onOpen;
  }

  #onOpen;
  /** @type {Map<string, Object<string, HTMLElement>>} by id of the instance */
  #cards = new Map();
  /** @type {Map<string, Object<string, HTMLElement>>} by node */
  #groups = new Map();

  /** @param {import("./map.js").Scene} scene */
  show(scene) {
    const { fleet } = scene;
    const isFlat = fleet.runs.every(({ n }) => n === 1);
    byId("cards").classList.toggle("flat", isFlat);
    this.#cards = kept(this.#cards, fleet.ids, (id) => this.#make(id));
    this.#groups = kept(this.#groups, fleet.nodes, makeGroup);
    place(byId("cards"), fleet.runs.map((run) => this.#fillGroup(scene, run, isFlat)));
  }

  #fillGroup(scene, run, isFlat) {
    const { fleet, match, scale } = scene;
    const cells = Array.from({ length: run.n }, (_, at) => run.first + at);
    const { section, name, trouble, list } = this.#groups.get(fleet.nodes[run.node]);
    name.parentElement.hidden = isFlat;
    write(name, fleet.nodes[run.node]);
    write(trouble, troubleOf(fleet, run, scale));
    place(list, cells.map((cell) => this.#fill(scene, cell, isFlat)));
    // A node of many has cards side by side.
    section.classList.toggle("wide", run.n > MANY);
    section.hidden = !cells.some((cell) => match.has(cell));
    return section;
  }

  #fill({ fleet, match, scale }, cell, isFlat) {
    const { item, button, speed, model, state, node } = this.#cards.get(fleet.ids[cell]);
    const value = fleet.valueOf(cell, scale.name);
    const { colour, mark } = scale.steps[scale.stepOf(value)];
    item.hidden = !match.has(cell);
    button.style.borderLeftColor = mark ?? colour;
    const status = fleet.valueOf(cell, "status");
    write(speed, speedWords(fleet.speeds?.[cell] ?? null, status));
    speed.className = fleet.speeds?.[cell] == null ? "speed model" : "speed";
    write(model, fleet.models[fleet.model[cell]]);
    write(node, isFlat ? fleet.nodes[fleet.node[cell]] : "");
    write(state, stateWords(fleet, cell, scale.name));
    state.className = `state ${BAD.includes(status) ? "bad" : status === "healthy" ? "" : "warn"}`;
    return item;
  }

  #make(id) {
    const classes = ["speed", "model", "state", "node"];
    const [speed, model, state, node] = classes.map((className) => make("span", { className }));
    const name = make("b", { textContent: id });
    const button = make("button", { type: "button", className: "card" }, name, " ", speed, " ", model, " ", state, " ", node);
    button.dataset.card = id;
    button.addEventListener("click", () => this.#onOpen(id));
    return { item: make("li", {}, button), button, speed, model, state, node };
  }
}

/** Return what was made before of these names, and what has to be made. */
function kept(before, names, create) {
  return new Map(names.map((name) => [name, before.get(name) ?? create(name)]));
}

function makeGroup() {
  const [name, trouble] = [make("span"), make("strong", { className: "trouble" })];
  const list = make("ul");
  return { section: make("section", { className: "node" }, make("h2", {}, name, " ", trouble), list), name, trouble, list };
}

function speedWords(tokens, status) {
  if (tokens !== null) return `${decimal(tokens)} tokens/s`;
  return status === "healthy" || status === CONDITION ? "not measured" : "";
}

function stateWords(fleet, cell, name) {
  if (name !== "status" && fleet.valueOf(cell, "status") === "healthy") return shortValue(name, fleet.valueOf(cell, name));
  const status = fleet.valueOf(cell, "status");
  return status === CONDITION ? conditionWords(fleet.conditionsOf(cell)) : status;
}

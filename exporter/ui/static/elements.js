/**
 * Make elements and find those of the page.
 *
 * In:   names, texts, children. A text only ever becomes text, whatever it looks like.
 * Out:  elements.
 */

/** @param {string} id @returns {any} the page's element of this id */
export function byId(id) {
  return document.getElementById(id);
}

/**
 * @param {string} tag
 * @param {Object} [properties] of the element, such as className or textContent
 * @param {...(Node | string)} children
 * @returns {HTMLElement}
 */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/**
 * Make these an element's children, in this order. What is in its place already is left alone: it
 * keeps its marks, and the focus stays with what had it.
 *
 * @param {HTMLElement} parent
 * @param {HTMLElement[]} children
 */
export function place(parent, children) {
  const focused = document.activeElement;
  const wanted = new Set(children);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  children.forEach((child, at) => {
    if (parent.children[at] !== child) parent.insertBefore(child, parent.children[at] ?? null);
  });
  // One that was moved has lost it.
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

/** Write a text where it is another one: what a person has marked in it stays marked. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

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

/** Write a text where it is another one: what a person has marked in it stays marked. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

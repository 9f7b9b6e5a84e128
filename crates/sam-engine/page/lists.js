// The lists beside the image. Names are text, never markup.

import { classify, hide, remove, select } from "/page/actions.js";
import { classChoices, onClass } from "/page/classes.js";
import { open } from "/page/images.js";
import { $, element, page, show, write } from "/page/page.js";
import { colourOf, cssColour } from "/page/sprites.js";

/** Rows that exist at once; of more, those around the current one. */
const MAX_ROWS = 120;
const MAX_OBJECTS = 100;

const STATES = { todo: "to do", open: "open", done: "done", skipped: "skipped" };

/** The images that match the search and the filter, with the current one in sight. */
export function showImages() {
  if (!page.isListStale) return;
  page.isListStale = false;
  const { images } = page.project;
  const [wanted, filter, list] = [$("search").value.toLowerCase(), $("filter").value, $("images")];
  const found = images.map((image, index) => ({ image, index }))
    .filter(({ image }) => (!filter || image.state === filter) && image.name.toLowerCase().includes(wanted));
  const at = Math.max(0, found.findIndex(({ index }) => index === page.index));
  const first = Math.max(0, Math.min(at - MAX_ROWS / 2, found.length - MAX_ROWS));
  const rows = found.slice(first, first + MAX_ROWS).map(imageRow);
  const more = (count, where) => (count > 0 ? [element("li", { className: "more", textContent: `${count} more ${where}` })] : []);
  const hadFocus = list.contains(document.activeElement);
  list.replaceChildren(...more(first, "above"), ...rows, ...more(found.length - first - rows.length, "below"));
  const current = list.querySelector("[aria-current]");
  current?.scrollIntoView({ block: "nearest" });
  if (hadFocus) (current ?? list.querySelector("button"))?.focus();
  const done = images.filter(({ state }) => state === "done" || state === "skipped").length;
  write($("counts"), `${done} of ${images.length} done` + (found.length < images.length ? `, ${found.length} listed` : ""));
}

function imageRow({ image, index }) {
  const isCurrent = index === page.index;
  const button = element("button", { type: "button", className: "row", title: `${image.name}: ${STATES[image.state]}`, tabIndex: isCurrent ? 0 : -1 },
    element("span", { className: `dot ${image.state}`, role: "img", "aria-label": STATES[image.state] }),
    element("span", { className: "label", textContent: image.name }),
    element("span", { className: "number", textContent: image.masks || "" }));
  if (isCurrent) button.setAttribute("aria-current", "true");
  button.onclick = () => open(index);
  return element("li", {}, button);
}

/** Arrow keys go through the rows of a list of buttons. */
function walk(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const rows = [...event.currentTarget.querySelectorAll("button.row")];
  rows[rows.indexOf(document.activeElement) + step]?.focus();
  event.preventDefault();
  event.stopPropagation();
}

/** Rows of objects by id, each with what it shows: only those are made anew that have changed. */
let rows = new Map();
/** The object in the first row. */
let firstObject = 0;

/** The objects of the image. */
export function showObjects() {
  const { masks, hidden, selected } = page, list = $("objects");
  write($("n-objects"), masks.length === 0 ? "No objects" : masks.length === 1 ? "1 object" : `${masks.length} objects`);
  $("hide-all").setAttribute("aria-pressed", String(page.allHidden));
  const first = firstOf(masks, selected);
  const next = new Map();
  let [hasChanged, hadFocus] = [false, false];
  for (const [offset, mask] of masks.slice(first, first + MAX_OBJECTS).entries()) {
    const n = first + offset + 1, isSelected = mask.uuid === selected;
    const isAway = hidden.has(mask.uuid);
    const key = [n, mask.class, mask.source, mask.area, mask.colour, isAway, isSelected, page.project.classes.length].join("\u0000");
    let row = rows.get(mask.uuid);
    if (row?.key !== key) {
      hadFocus ||= row?.node.contains(document.activeElement) ?? false;
      row = { key, node: objectRow(mask, n, isSelected, isAway) };
      hasChanged = true;
    }
    next.set(mask.uuid, row);
  }
  if (!hasChanged && next.size === rows.size && first === list.shownFrom) return;
  rows = next;
  list.shownFrom = first;
  const nodes = [...next.values()].map(({ node }) => node);
  const below = masks.length - first - next.size;
  if (first > 0) nodes.unshift(moreObjects(`${first} more above`, -1));
  if (below > 0) nodes.push(moreObjects(`${below} more below`, 1));
  list.replaceChildren(...nodes);
  const current = list.querySelector("[aria-selected=true]");
  if (current) list.setAttribute("aria-activedescendant", current.id);
  else list.removeAttribute("aria-activedescendant");
  current?.scrollIntoView({ block: "nearest" });
  if (hadFocus) list.focus({ preventScroll: true });
}

/** The first object of the list: the chosen one is in it. */
function firstOf(masks, selected) {
  const at = selected === null ? -1 : masks.findIndex(({ uuid }) => uuid === selected);
  if (at >= 0 && (at < firstObject || at >= firstObject + MAX_OBJECTS)) firstObject = at - MAX_OBJECTS / 2;
  firstObject = Math.max(0, Math.min(firstObject, masks.length - MAX_OBJECTS));
  return firstObject;
}

function moreObjects(text, direction) {
  const button = element("button", { type: "button", className: "row more", textContent: text, tabIndex: -1 });
  button.onclick = () => { firstObject += (direction * MAX_OBJECTS) / 2; show(); };
  return element("li", { role: "presentation" }, button);
}

function objectRow(mask, n, isSelected, isAway) {
  const button = (text, name, action) => {
    const node = element("button", { type: "button", textContent: text, title: name, "aria-label": name, tabIndex: -1 });
    node.onclick = (event) => { event.stopPropagation(); action(); };
    return node;
  };
  const swatch = element("span", { className: "swatch" });
  swatch.style.background = cssColour(colourOf(mask.colour));
  let label = element("span", { className: "label", textContent: mask.class ?? `Object ${n}` });
  if (isSelected) {
    // Renaming is another class.
    const choice = element("select", { "aria-label": `Class of object ${n}` }, ...classChoices(mask.class));
    onClass(choice, () => mask.class, (name) => classify(page.masks.find(({ uuid }) => uuid === mask.uuid) ?? mask, name));
    choice.onclick = (event) => event.stopPropagation();
    label = element("span", { className: "label" }, choice);
  }
  const badge = ["automatic", "accepted", "imported"].includes(mask.source) ? [element("span", { className: "badge", textContent: mask.source === "automatic" ? "auto" : mask.source })] : [];
  const row = element("li", { id: `object-${mask.uuid}`, role: "option", className: isAway ? "away" : "", title: `${mask.area.toLocaleString()} pixels, ${mask.source}` }, swatch, label, ...badge,
    button(isAway ? "○" : "●", `${isAway ? "Show" : "Hide"} object ${n}`, () => hide(mask)),
    button("✕", `Delete object ${n}`, () => remove(mask)));
  row.setAttribute("aria-selected", String(isSelected));
  row.onclick = () => select(isSelected ? null : mask.uuid);
  return row;
}

export function listenToLists() {
  $("search").oninput = $("filter").onchange = () => { page.isListStale = true; show(); };
  $("images").onkeydown = walk;
  $("objects").onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (!step || page.masks.length === 0 || event.target.matches("select")) return;
    event.preventDefault();
    event.stopPropagation();
    const at = page.masks.findIndex((mask) => mask.uuid === page.selected);
    select(page.masks[Math.max(0, Math.min(page.masks.length - 1, at + step))].uuid);
  };
}

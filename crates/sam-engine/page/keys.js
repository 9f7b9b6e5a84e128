// Keys: what each one does, and which one does it. Keys of letters and signs can be changed in the dialog of `?`; Enter, Escape, Tab,
// the arrows and the digits stay what they are.

import * as actions from "/page/actions.js";
import { digit } from "/page/classes.js";
import { beginBox, enter, moveCursor } from "/page/cursor.js";
import { open } from "/page/images.js";
import { $, chosen, keepSetting, page, setting } from "/page/page.js";
import { undoCorner } from "/page/polygon.js";
import { focusText } from "/page/text.js";

const middle = () => page.view.place.map((side) => side / 2);
const withChosen = (action) => () => { const mask = chosen(); if (mask) action(mask); };

/** Takes back a corner, otherwise removes the chosen object. */
function backspace() {
  if (!undoCorner()) withChosen(actions.remove)();
}

/** Goes to the next image that somebody has to work on; after the last one, from the first. */
function nextOpen() {
  const { images } = page.project;
  const isOpen = ({ state }) => state === "todo" || state === "open";
  const after = images.findIndex((image, index) => index > page.index && isOpen(image));
  open(after >= 0 ? after : images.findIndex(isOpen));
}

/**
 * What keys do: id, sentence, default key, action. `layer`: where it counts; an action of a layer that is shown goes before those
 * of "image".
 */
export const ACTIONS = [
  ["click", "Clicks and boxes", "c", () => actions.setTool("click")],
  ["text", "Text, where the model takes texts", "w", focusText],
  ["brush", "Brush (right button or ⇧: erases)", "b", () => actions.setTool("brush")],
  ["eraser", "Eraser", "x", () => actions.setTool("eraser")],
  ["polygon", "Polygon (right button or ⇧: cuts)", "p", () => actions.setTool("polygon")],
  ["thinner", "Thinner brush", "[", () => actions.resizeBrush(1 / 1.2)],
  ["thicker", "Thicker brush", "]", () => actions.resizeBrush(1.2)],
  ["hover", "Preview under the pointer", "o", () => page.hover.toggle()],
  ["box", "Box from the keyboard's cursor", "q", beginBox],
  ["edit", "Choose the object under the pointer", "e", actions.pickHere],
  ["approve", "Accept the chosen object as it is, when nobody has", "y", withChosen(actions.approve)],
  ["delete", "Delete the chosen object", "Delete", withChosen(actions.remove)],
  ["hide", "Hide the chosen object", "Shift+H", withChosen(actions.hide)],
  ["hide-all", "Hide all objects", "h", actions.hideAll],
  ["outlines", "Outlines only", "t", actions.toggleOutlines],
  ["undo", "Undo: clicks, then changes", "z", actions.undo],
  ["redo", "Redo", "Shift+Z", actions.redo],
  ["next", "Next image", "d", () => open(page.index + 1)],
  ["next-open", "Next image that is not done", "Shift+D", nextOpen],
  ["previous", "Previous image", "a", () => open(page.index - 1)],
  ["done", "Done", "g", () => actions.toggleState("done")],
  ["skip", "Skip", "k", () => actions.toggleState("skipped")],
  ["search", "Search images", "/", () => $("search").focus()],
  ["note", "Note", "n", () => $("note").focus()],
  ["zoom-in", "Zoom in", "+", () => page.view.zoom(1.25, middle())],
  ["zoom-out", "Zoom out", "-", () => page.view.zoom(0.8, middle())],
  ["fit", "Whole image", "f", () => page.view.fit()],
  ["proposals", "Proposals", "v", () => page.proposals.toggle()],
  ["accept", "Accept the proposal", "a", () => page.proposals.accept(), "proposals"],
  ["reject", "Reject the proposal", "r", () => page.proposals.reject(), "proposals"],
  ["accept-all", "Accept all above the threshold", "Shift+A", () => page.proposals.acceptAll(), "proposals"],
  ["good", "Review: the mask is right", "g", () => page.review.good(), "review"],
  ["correct", "Review: correct the mask", "e", () => page.review.correct(), "review"],
  ["wrong", "Review: delete the mask", "Delete", () => page.review.remove(), "review"],
  ["review-next", "Review: next mask", "d", () => page.review.step(1), "review"],
  ["review-previous", "Review: previous mask", "a", () => page.review.step(-1), "review"],
  ["help", "This page", "?", () => $("help").showModal(), "everywhere"],
].map(([id, what, key, run, layer = "image"]) => ({ id, what, key, run, layer }));

/** Keys that stay what they are. */
const FIXED = {
  Enter: enter, Escape: actions.drop, Backspace: backspace, PageDown: () => open(page.index + 1), PageUp: () => open(page.index - 1),
  ArrowLeft: (event) => moveCursor(-1, 0, event.shiftKey), ArrowRight: (event) => moveCursor(1, 0, event.shiftKey),
  ArrowUp: (event) => moveCursor(0, -1, event.shiftKey), ArrowDown: (event) => moveCursor(0, 1, event.shiftKey),
};

const isFixed = (key) => key in FIXED || ["Tab", " "].includes(key) || /^\d$/.test(key);

/** Keys that somebody has changed, by the id of the action. */
let changed = setting("keys", {});

/** A key as it is kept: letters tell with Shift, signs say themselves what they are. */
export function keyOf(event) {
  if (!/^\p{L}$/u.test(event.key)) return event.key;
  return event.shiftKey ? `Shift+${event.key.toUpperCase()}` : event.key.toLowerCase();
}

export const boundKey = (action) => changed[action.id] ?? action.key;

/** How a key is written. */
export function shownKey(key) {
  const names = { Delete: "Del", Escape: "Esc", Enter: "↵", PageDown: "Page↓", PageUp: "Page↑" };
  return names[key] ?? key.replace("Shift+", "⇧").replace(/^(\p{Ll})$/u, (letter) => letter.toUpperCase());
}

/** Gives an action another key; returns why it cannot have it, or null. */
export function bind(action, key) {
  if (isFixed(key)) return `${shownKey(key)} has a meaning that cannot be changed`;
  const isBeside = (other) => other.layer === action.layer || "everywhere" === action.layer || "everywhere" === other.layer;
  const taken = ACTIONS.find((other) => other !== action && isBeside(other) && boundKey(other) === key);
  if (taken) return `${shownKey(key)} is taken: ${taken.what}`;
  changed = { ...changed, [action.id]: key };
  keepSetting("keys", changed);
  return null;
}

/** Gives every action its default key again. */
export function resetKeys() {
  changed = {};
  keepSetting("keys", changed);
}

/** Layers that are shown, the nearest first. */
function layers() {
  if (page.place === "review") return ["review", "everywhere"];
  if (page.place === "rounds") return ["everywhere"];
  return [...(page.proposals.isOn && page.proposals.state === "ready" ? ["proposals"] : []), "image", "everywhere"];
}

function actionOf(key) {
  for (const layer of layers()) {
    const action = ACTIONS.find((other) => other.layer === layer && boundKey(other) === key);
    if (action) return action.run;
  }
  return page.place === "image" ? FIXED[key] : undefined;
}

/** Tab goes through the masks of a click, then through the proposals; otherwise through the page. */
function tab(event) {
  if (page.place !== "image" || event.target !== $("canvas")) return false;
  const { draft, proposals } = page;
  if (draft.candidates.length > 1) {
    if (event.shiftKey) return false;
    draft.choose((draft.choice + 1) % draft.candidates.length);
    return true;
  }
  if (!draft.isEmpty || proposals.focused() === null) return false;
  proposals.step(event.shiftKey ? -1 : 1);
  return true;
}

function onKey(event) {
  if (document.querySelector("dialog[open]") || !page.project) return;
  if (event.target.matches("input:not([type=range]), select, textarea")) {
    if (event.key === "Escape") $("canvas").focus();
    return;
  }
  const onButton = event.target.matches("button, a, [role=option]");
  const isUndo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
  if ((event.ctrlKey || event.metaKey || event.altKey) && !isUndo) return;
  if (event.key === " ") {
    // Space pans while it is held, and pushes a button that has the focus.
    if (!onButton) { page.isSpaceDown = true; event.preventDefault(); }
    return;
  }
  if (onButton && event.key === "Enter") return;
  if (event.target.matches("input[type=range]") && /^(Arrow|Page|Home|End)/.test(event.key)) return;
  if (event.key === "Tab") {
    if (tab(event)) event.preventDefault();
    return;
  }
  if (isUndo) (event.shiftKey ? actions.redo : actions.undo)();
  else if (/^\d$/.test(event.key) && page.place === "image") digit(Number(event.key));
  else {
    const action = actionOf(keyOf(event));
    if (!action) return;
    action(event);
  }
  event.preventDefault();
}

export function listenToKeys() {
  // The canvas shows that it has the focus to those who use keys.
  addEventListener("pointerdown", () => document.body.classList.remove("keys"), true);
  addEventListener("keydown", ({ key }) => { if (/^(Tab|Arrow)/.test(key)) document.body.classList.add("keys"); }, true);
  addEventListener("keydown", onKey);
  addEventListener("keyup", (event) => { if (event.key === " ") page.isSpaceDown = false; });
  addEventListener("blur", () => { page.isSpaceDown = false; });
}

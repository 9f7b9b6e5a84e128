// What the page shows, in one place. The parts read it here; each part changes what is its own and then calls show().

export const $ = (id) => document.getElementById(id);

/** Everything that the page shows; tests read it. The parts that are objects are added by app.js. */
export const page = {
  project: null, index: -1, view: null, draft: null, outbox: null, history: null, sprites: null, layer: null,
  /** Of the current image. */
  masks: [], rejected: [], note: "", isValidation: false, revision: 0, readiness: { state: "waiting" },
  tool: "click", radius: 12, isSpaceDown: false, isOther: false,
  /** Id of the object that is chosen; ids of those that are not shown. */
  selected: null, hidden: new Set(), allHidden: false, hasTint: true,
  /** What a drag would make: {box} or {stroke}. */
  shown: null,
  /** Where mouse or pen are, on the canvas; the cursor of the keyboard, in pixels of the image. */
  pointer: null, cursor: null,
  /** Corners of the polygon in the making. */
  polygon: null,
  nextColour: 0, wantsCommit: false,
  /** An error, and a piece of news; the message line shows the first that is there. */
  problem: "", news: "",
};

/** The entry of the current image in the list. */
export const image = () => page.project?.images[page.index];

/** The object that is chosen. */
export const chosen = () => (page.selected === null ? null : page.masks.find((mask) => mask.uuid === page.selected) ?? null);

const parts = [];
let isAsked = false;

/** Adds a function that brings a part of the page up to date. */
export function shows(part) {
  parts.push(part);
}

/** Brings the page up to date, once after all changes of the moment. */
export function show() {
  if (isAsked) return;
  isAsked = true;
  queueMicrotask(() => {
    isAsked = false;
    if (!page.project) return;
    for (const part of parts) part();
    page.view.redraw();
  });
}

/** Says something in the message line; an error stays until the next action. */
export function say(text, isBad = false) {
  page.problem = isBad ? text : "";
  if (!isBad) page.news = text;
  show();
}

/** An element with properties or attributes. What is given as text stays text. */
export function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** Changes a text only when it is another: live regions are read out again otherwise. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** What a server says, as a sentence of the page. */
export const sentence = (text) => text.replace(/^./, (letter) => letter.toUpperCase());

/** A setting of this browser that outlives the page. */
export function setting(name, fallback) {
  try { return JSON.parse(localStorage.getItem(`sam-train-settings/${name}`)) ?? fallback; } catch { return fallback; }
}

export function keepSetting(name, value) {
  // Without storage, the setting holds until the page is left.
  try { localStorage.setItem(`sam-train-settings/${name}`, JSON.stringify(value)); } catch { /* see above */ }
}

// The page: joins image, draft, lists and server. A finished mask is saved at once, and so is its undo.

import { Draft } from "/page/draft.js";
import { element, showImages, showObjects } from "/page/lists.js";
import { colourOf, drawSprite, spriteOf } from "/page/masks.js";
import { listen } from "/page/pointer.js";
import { covers, cropOf, segmentationOf } from "/page/runs.js";
import { Outbox, get, post } from "/page/server.js";
import { View } from "/page/view.js";

const $ = (id) => document.getElementById(id);
const DRAFT_COLOUR = [255, 196, 0];
const READINESS_MS = 400;
const FORWARD = 2;

/** Everything that the page shows; tests read it. */
export const page = {
  project: null, index: -1, masks: [], revision: 0, tool: "click", radius: 12, isSpaceDown: false, selected: null,
  hidden: new Set(), allHidden: false, histories: new Map(), shown: null, pointer: null, cursor: null, nextColour: 0,
  readiness: { state: "waiting" }, problem: "", sprite: null,
  act, preview, hover,
};
page.view = new View($("canvas"), paint);
page.draft = new Draft({ onChange: changed, onMessage: say });
const keyboard = listen($("canvas"), page);
const image = () => page.project?.images[page.index];

// ---- Opening -----------------------------------------------------------------------------------------------------------

async function start() {
  page.project = await get("/api/project");
  const { name, classes, images, key } = page.project;
  $("project").textContent = name;
  document.title = `${name} – sam-train annotate`;
  page.outbox = new Outbox(key, { onChange: showSaved, onApplied, onRefused });
  $("class-box").hidden = classes.length === 0;
  $("class").replaceChildren(...["", ...classes].map((value, n) =>
    element("option", { value, textContent: value ? `${n}  ${value}` : "no class" })));
  const kept = decodeURIComponent(location.hash.slice(1));
  const at = images.findIndex((other) => other.name === kept);
  const todo = images.findIndex(({ state }) => state === "todo" || state === "open");
  await open(at >= 0 ? at : Math.max(0, todo));
}

async function open(index) {
  const { images } = page.project;
  if (index < 0 || index >= images.length) return;
  if (!page.draft.isEmpty && !confirm("The mask in the making is not committed. Drop it?")) return;
  const { id, name } = images[index];
  Object.assign(page, { index, masks: [], revision: 0, selected: null, shown: null, cursor: null, problem: "", nextColour: 0 });
  page.hidden.clear();
  page.readiness = { state: "waiting" };
  page.draft.begin(id, null);
  page.view.show(null);
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  $("name").textContent = name;
  lists();
  const next = images.slice(index + 1, index + 1 + FORWARD).map((other) => other.id);
  try {
    const [readiness, response] = await Promise.all([
      post("/api/look-at", { image: id, next }), fetch(`/api/images/${id}/pixels`), load()]);
    if (image().id !== id) return;
    if (!response.ok) throw new Error((await response.json()).error);
    page.readiness = readiness;
    const blob = await response.blob();
    if (image().id !== id) return;
    await page.view.show(blob);
    const [width, height] = page.view.size;
    page.draft.begin(id, [height, width]);
    watch(id);
  } catch (error) {
    if (image().id === id) say(`This image cannot be shown: ${error.message}`, true);
  }
}

/** The masks of the image as they are on disk, with what is still on its way. */
async function load() {
  const { id } = image();
  const { revision, state, masks } = await get(`/api/images/${id}`);
  if (image().id !== id) return;
  const before = new Map(page.masks.map((mask) => [mask.uuid, mask]));
  page.nextColour = 0;
  page.masks = [];
  for (const mask of masks) {
    const old = before.get(mask.uuid);
    const isSame = old && old.segmentation.counts === mask.segmentation.counts && old.colour === page.nextColour;
    place(isSame ? { ...old, ...mask } : mask);
  }
  page.revision = revision;
  image().state = state;
  for (const { operation } of page.outbox.waiting.filter(({ operation }) => operation.image === id)) local(operation.change);
  lists();
}

/** Follows the encoder while it works on the image. */
async function watch(id) {
  while (image().id === id && !["ready", "failed"].includes(page.readiness.state)) {
    message();
    await new Promise((resolve) => setTimeout(resolve, READINESS_MS));
    if (document.hidden) continue;
    page.readiness = await get(`/api/images/${id}/readiness`).catch(() => page.readiness);
  }
  message();
}

// ---- Operations --------------------------------------------------------------------------------------------------------

/** The mask as an operation has it. */
function sent({ uuid, segmentation, source, class: name, prompts, seconds, predicted_iou, model }) {
  return { uuid, segmentation, source, class: name ?? null, prompts, seconds, predicted_iou, model: model ?? null };
}

/** Changes the masks on the page; returns the change that takes it back. */
function local(change) {
  const at = page.masks.findIndex((mask) => mask.uuid === (change.uuid ?? change.mask?.uuid));
  const old = page.masks[at];
  if (change.kind === "add" && !old) place(change.mask);
  if (change.kind === "replace" && old) place(change.mask, at);
  if (change.kind === "delete" && old) page.masks.splice(at, 1);
  const counts = { add: { kind: "delete", uuid: change.mask?.uuid }, replace: old && { kind: "replace", mask: sent(old) } };
  const inverse = { ...counts, delete: old && { kind: "add", mask: sent(old) }, state: { kind: "state", state: image().state } };
  if (change.kind === "state") image().state = change.state;
  else if (change.kind === "add" && image().state === "todo") image().state = "open";
  image().masks = page.masks.length;
  return inverse[change.kind];
}

function place(mask, at = page.masks.length) {
  const crop = mask.crop ?? cropOf(mask.segmentation);
  const colour = page.masks[at]?.colour ?? page.nextColour++;
  page.masks[at] = { ...mask, crop, colour, area: mask.area ?? crop.data.reduce((sum, value) => sum + value, 0), sprite: null };
}

function thickness() {
  return Math.max(1, Math.max(...page.view.size) / 700);
}

/** Carries out a change here and on the server; an undo or redo brings the stack that its inverse goes to. */
function change(what, to = null) {
  const inverse = local(what);
  if (!inverse) return;
  const stacks = historyOf(image().id);
  (to ?? stacks.undo).push(inverse);
  if (!to) stacks.redo = [];
  page.outbox.push({ op: crypto.randomUUID(), image: image().id, base: page.revision, change: what });
  lists();
  page.view.redraw();
}

function historyOf(id) {
  if (!page.histories.has(id)) page.histories.set(id, { undo: [], redo: [] });
  return page.histories.get(id);
}

function onApplied({ image: id, base }, { revision, state }) {
  const entry = page.project.images.find((other) => other.id === id);
  if (entry && !page.outbox.hasOf(id)) entry.state = state;
  if (image()?.id !== id) return;
  // Somebody else was here as well: show it.
  if (revision > base + 1 && !page.outbox.hasOf(id)) load().catch(() => {});
  else page.revision = Math.max(page.revision, revision);
  lists();
}

function onRefused({ image: id }, error) {
  if (image()?.id !== id) return;
  say(error.body.status === "conflict" ? "Changed elsewhere in the meantime: shown as it is now" : `Not saved: ${error.message}`, true);
  load().catch(() => {});
}

// ---- Actions -----------------------------------------------------------------------------------------------------------

function act(action) {
  if (!page.draft.size) return;
  page.problem = "";
  const revised = page.masks.find((mask) => mask.uuid === page.selected);
  if (action.kind === "stroke" && page.draft.isEmpty && revised) page.draft.revises = revised;
  page.draft.add(action);
}

function commit() {
  const { draft } = page;
  if (!draft.crop || draft.isAsking) return;
  const chosen = draft.candidates[draft.choice], { revises } = draft;
  const mask = {
    uuid: revises?.uuid ?? crypto.randomUUID(),
    segmentation: segmentationOf(draft.crop, draft.size),
    source: revises ? corrected(revises.source) : chosen ? "assisted" : "manual",
    class: revises ? revises.class : $("class").value || null,
    prompts: draft.prompt(),
    seconds: Math.round(draft.seconds * 100) / 100 + (revises?.seconds ?? 0),
    predicted_iou: chosen?.predicted_iou ?? revises?.predicted_iou ?? null,
    model: draft.model ?? revises?.model ?? null,
  };
  draft.clear();
  page.selected = null;
  change({ kind: revises ? "replace" : "add", mask });
}

const corrected = (source) => (source === "automatic" || source === "accepted" ? "corrected" : source);

function undo() {
  const stacks = historyOf(image().id);
  if (!page.draft.isEmpty) page.draft.undo();
  else if (stacks.undo.length > 0) change(stacks.undo.pop(), stacks.redo);
}

function redo() {
  const stacks = historyOf(image().id);
  if (page.draft.undone.length > 0) page.draft.redo();
  else if (stacks.redo.length > 0) change(stacks.redo.pop(), stacks.undo);
}

function remove(mask) {
  if (mask.uuid === page.selected) page.selected = null;
  change({ kind: "delete", uuid: mask.uuid });
}

function classify(mask, name) {
  change({ kind: "replace", mask: { ...sent(mask), class: name } });
}

function toggleState(state) {
  change({ kind: "state", state: image().state === state ? "open" : state });
}

function select(uuid) {
  page.selected = uuid;
  changed();
}

function hide(mask) {
  if (!page.hidden.delete(mask.uuid)) page.hidden.add(mask.uuid);
  changed();
}

function drop() {
  page.problem = "";
  if (page.draft.isEmpty) select(null);
  else page.draft.clear();
}

function setTool(tool) {
  page.tool = tool;
  changed();
}

// ---- Showing -----------------------------------------------------------------------------------------------------------

function preview(shown) {
  page.shown = shown;
  page.view.redraw();
}

function hover(at) {
  page.pointer = at;
  if (page.tool !== "click") page.view.redraw();
}

function changed() {
  if (!page.project) return;
  const { draft } = page;
  if (page.sprite?.crop !== draft.crop) page.sprite = draft.crop && spriteOf(draft.crop, DRAFT_COLOUR, thickness());
  for (const tool of ["click", "brush", "eraser"]) $(`tool-${tool}`).setAttribute("aria-pressed", String(page.tool === tool));
  $("canvas").classList.toggle("brush", page.tool !== "click");
  const stacks = image() ? historyOf(image().id) : { undo: [], redo: [] };
  $("commit").disabled = !draft.crop || draft.isAsking;
  $("drop").disabled = draft.isEmpty;
  $("undo").disabled = draft.isEmpty && stacks.undo.length === 0;
  $("redo").disabled = draft.undone.length === 0 && stacks.redo.length === 0;
  const choices = draft.candidates.length > 1 ? draft.candidates : [];
  $("choices").hidden = choices.length === 0;
  $("choices").replaceChildren(...choices.map(({ predicted_iou }, n) => {
    const button = element("button", { type: "button", title: `Mask ${n + 1}: the model expects an IoU of ${predicted_iou.toFixed(2)}` },
      `${n + 1}`, element("kbd", { textContent: predicted_iou.toFixed(2) }));
    button.setAttribute("aria-pressed", String(n === draft.choice));
    button.onclick = () => draft.choose(n);
    return button;
  }));
  objects();
  message();
  page.view.redraw();
}

function lists() {
  const { images } = page.project;
  const [search, filter] = [$("search").value, $("filter").value];
  showImages({ list: $("images"), counts: $("counts"), images, current: page.index, search, filter, onOpen: open });
  $("done").setAttribute("aria-pressed", String(image().state === "done"));
  $("skip").setAttribute("aria-pressed", String(image().state === "skipped"));
  $("previous").disabled = page.index === 0;
  $("next").disabled = page.index === images.length - 1;
  changed();
}

function objects() {
  const { masks, hidden, selected } = page;
  $("n-objects").textContent = masks.length === 0 ? "No objects" : masks.length === 1 ? "1 object" : `${masks.length} objects`;
  $("hide-all").setAttribute("aria-pressed", String(page.allHidden));
  const actions = { onSelect: select, onHide: hide, onDelete: remove, onClass: classify };
  showObjects({ list: $("objects"), masks, classes: page.project.classes, hidden, selected, ...actions });
}

function say(text, isBad = false) {
  page.problem = isBad ? text : "";
  message();
}

function message() {
  const { draft, readiness } = page;
  const chosen = draft.candidates[draft.choice];
  let text = page.problem;
  if (!text && readiness.state === "failed") text = readiness.message;
  const isBad = text !== "";
  if (!text && readiness.state === "encoding") text = `Encoding the image, ${Math.round(readiness.seconds)} s; clicks are answered then`;
  else if (!text && readiness.state === "waiting" && draft.isAsking) text = "Waiting for the encoder";
  else if (!text && draft.crop && chosen) text = `Predicted IoU ${chosen.predicted_iou.toFixed(2)}; Enter commits`;
  else if (!text && chosen && !draft.isAsking) text = "The model finds nothing here; try another click or a box";
  $("message").classList.toggle("bad", isBad);
  if ($("message").textContent !== text) $("message").textContent = text;
}

function showSaved(state, count) {
  const text = { saved: "All saved", saving: `Saving ${count}`, offline: `${count} unsaved: no connection` };
  $("saved").dataset.state = state;
  if ($("saved").textContent !== text[state]) $("saved").textContent = text[state];
}

/** Draws over the image; the context is in pixels of the image, of which `pixel` are one of the page. */
function paint(context, pixel) {
  const { draft, view, shown } = page;
  if (!page.allHidden) {
    for (const mask of page.masks) {
      if (page.hidden.has(mask.uuid) || mask === draft.revises) continue;
      mask.sprite ??= spriteOf(mask.crop, colourOf(mask.colour), thickness());
      context.globalAlpha = page.selected && page.selected !== mask.uuid ? 0.45 : 1;
      drawSprite(context, mask.sprite);
    }
    context.globalAlpha = 1;
  }
  if (page.sprite) drawSprite(context, page.sprite);
  const line = (width, colour, draw) => {
    context.lineWidth = width * pixel;
    context.strokeStyle = colour;
    context.beginPath();
    draw();
    context.stroke();
  };
  const selected = page.masks.find((mask) => mask.uuid === page.selected);
  if (selected) {
    const { x, y, width, height } = selected.crop;
    for (const [size, colour] of [[3, "rgb(0 0 0 / .6)"], [1.5, "white"]]) line(size, colour, () => context.rect(x, y, width, height));
  }
  const box = shown?.box ?? draft.box;
  if (box) for (const [size, colour] of [[3.5, "rgb(0 0 0 / .6)"], [1.5, "white"]]) line(size, colour, () => context.rect(box[0], box[1], box[2] - box[0], box[3] - box[1]));
  if (shown?.stroke) {
    const { points, radius, erases } = shown.stroke;
    context.lineCap = context.lineJoin = "round";
    line((2 * radius) / pixel, erases ? "rgb(200 40 40 / .45)" : "rgb(255 196 0 / .55)", () => {
      context.moveTo(...points[0]);
      for (const point of points.length > 1 ? points.slice(1) : points) context.lineTo(...point);
    });
  }
  for (const { xy: [x, y], positive } of draft.points) {
    context.beginPath();
    context.arc(x, y, 6 * pixel, 0, 2 * Math.PI);
    context.fillStyle = positive ? "#1d8a4a" : "#c0322b";
    context.fill();
    line(1.5, "white", () => context.arc(x, y, 6 * pixel, 0, 2 * Math.PI));
    // A plus or a minus: colour alone says nothing to some.
    line(1.7, "white", () => {
      context.moveTo(x - 3 * pixel, y); context.lineTo(x + 3 * pixel, y);
      if (positive) { context.moveTo(x, y - 3 * pixel); context.lineTo(x, y + 3 * pixel); }
    });
  }
  if (page.tool !== "click" && page.pointer) {
    const [x, y] = view.toImage(page.pointer);
    for (const [size, colour] of [[2.5, "rgb(0 0 0 / .6)"], [1, "white"]]) line(size, colour, () => context.arc(x, y, page.radius, 0, 2 * Math.PI));
  }
  if (page.cursor) {
    const [x, y] = page.cursor;
    for (const [size, colour] of [[3.5, "rgb(0 0 0 / .7)"], [1.5, "white"]]) {
      line(size, colour, () => {
        context.moveTo(x - 10 * pixel, y); context.lineTo(x + 10 * pixel, y);
        context.moveTo(x, y - 10 * pixel); context.lineTo(x, y + 10 * pixel);
      });
    }
  }
}

// ---- Keys --------------------------------------------------------------------------------------------------------------

/** Moves the cursor of the keyboard, which starts in the middle. */
function moveCursor(dx, dy, isFast) {
  const [width, height] = page.view.size;
  const step = (isFast ? 40 : 8) / page.view.scale;
  const [x, y] = page.cursor ?? [width / 2, height / 2];
  const within = (value, size) => Math.max(0, Math.min(size - 1, value));
  page.cursor = [within(x + dx * step, width), within(y + dy * step, height)];
  page.view.redraw();
}

/** Enter commits, or clicks with the keyboard's cursor after it has moved. */
function enter(event) {
  if (!page.cursor) return commit();
  keyboard.click(page.view.toCanvas(page.cursor), !event.shiftKey);
  page.cursor = null;
  page.view.redraw();
}

function digit(n) {
  if (page.draft.candidates.length > 1) return page.draft.choose(n - 1);
  const name = page.project.classes[n - 1];
  const mask = page.masks.find((other) => other.uuid === page.selected);
  if (name && mask) classify(mask, name);
  else if (name) $("class").value = name;
}

const thicker = (factor) => { page.radius = Math.max(1, Math.min(500, page.radius * factor)); page.view.redraw(); };
const cycle = () => page.draft.choose((page.draft.choice + 1) % Math.max(1, page.draft.candidates.length));

const KEYS = {
  Enter: enter, Escape: drop, z: undo, Z: redo, Tab: cycle, a: () => open(page.index - 1), d: () => open(page.index + 1),
  ArrowLeft: (event) => moveCursor(-1, 0, event.shiftKey), ArrowRight: (event) => moveCursor(1, 0, event.shiftKey),
  ArrowUp: (event) => moveCursor(0, -1, event.shiftKey), ArrowDown: (event) => moveCursor(0, 1, event.shiftKey),
  c: () => setTool("click"), b: () => setTool("brush"), x: () => setTool("eraser"), "[": () => thicker(1 / 1.2), "]": () => thicker(1.2),
  g: () => toggleState("done"), k: () => toggleState("skipped"), h: hideAll, f: () => page.view.fit(),
  "+": () => page.view.zoom(1.25, middle()), "-": () => page.view.zoom(0.8, middle()), "?": () => $("help").showModal(),
  Delete: () => { const mask = page.masks.find((other) => other.uuid === page.selected); if (mask) remove(mask); },
};

const HELP = [
  ["Click", "on the object"], ["Right or ⇧ click", "not on the object"], ["Drag", "a box around it"], ["Click a point", "removes it"],
  ["1 2 3, Tab", "which of three masks"], ["Enter", "commits"], ["Esc", "drops the prompt"], ["Z, Ctrl+Z", "undo: clicks, then masks"],
  ["⇧Z, Ctrl+⇧Z", "redo"], ["B, X", "brush, eraser (right button: the other)"], ["[ ]", "size of the brush"], ["C", "clicks and boxes"],
  ["D, A", "next, previous image"], ["G, K", "done, skip"], ["H", "hides the masks"], ["Del", "deletes the chosen object"],
  ["1 .. 9", "class of the chosen object, or of new ones"], ["Wheel, + −, F", "zoom, whole image"], ["Space or middle drag", "pans"], ["Arrows, Enter", "clicks without a mouse (⇧: not on the object)"],
];

const middle = () => page.view.place.map((side) => side / 2);

function hideAll() {
  page.allHidden = !page.allHidden;
  changed();
}

// The canvas shows that it has the focus to those who use keys.
addEventListener("pointerdown", () => document.body.classList.remove("keys"), true);
addEventListener("keydown", ({ key }) => { if (/^(Tab|Arrow)/.test(key)) document.body.classList.add("keys"); }, true);
addEventListener("keydown", (event) => {
  if ($("help").open || !page.project) return;
  const inText = event.target.matches("input, select, textarea");
  if (inText) {
    if (event.key === "Escape") $("canvas").focus();
    return;
  }
  const onButton = event.target.matches("button, [role=option], #images li");
  const isUndo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
  if ((event.ctrlKey || event.metaKey || event.altKey) && !isUndo) return;
  if (event.key === " ") {
    // Space pans while it is held, and pushes a button that has the focus.
    if (!onButton) { page.isSpaceDown = true; event.preventDefault(); }
    return;
  }
  // Tab goes through the masks of a prompt on the canvas, and through the page everywhere else.
  const isTab = event.key === "Tab" && (event.target !== $("canvas") || event.shiftKey || page.draft.candidates.length < 2);
  if (isTab || (onButton && event.key === "Enter")) return;
  const key = isUndo ? (event.shiftKey ? "Z" : "z") : event.key;
  const action = KEYS[key] ?? KEYS[key.length === 1 ? key.toLowerCase() : key];
  if (/^[1-9]$/.test(key)) digit(Number(key));
  else if (action) action(event);
  else return;
  event.preventDefault();
});
addEventListener("keyup", (event) => { if (event.key === " ") page.isSpaceDown = false; });
addEventListener("blur", () => { page.isSpaceDown = false; });

const buttons = {
  previous: () => open(page.index - 1), next: () => open(page.index + 1), done: () => toggleState("done"), skip: () => toggleState("skipped"),
  undo, redo, drop, commit, fit: () => page.view.fit(), "hide-all": hideAll, "help-button": () => $("help").showModal(),
  "tool-click": () => setTool("click"), "tool-brush": () => setTool("brush"), "tool-eraser": () => setTool("eraser"),
};
for (const [id, action] of Object.entries(buttons)) $(id).onclick = action;
$("search").oninput = $("filter").onchange = lists;
$("objects").onkeydown = (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || page.masks.length === 0) return;
  event.preventDefault();
  event.stopPropagation();
  const at = page.masks.findIndex((mask) => mask.uuid === page.selected);
  select(page.masks[Math.max(0, Math.min(page.masks.length - 1, at + step))].uuid);
};
$("keys").replaceChildren(...HELP.flatMap(([key, what]) => [element("dt", { textContent: key }), element("dd", { textContent: what })]));

/** Which object is at a pixel of the image, the newest first. */
export const objectAt = (x, y) => page.masks.findLast((mask) => covers(mask.crop, x, y)) ?? null;

start().catch((error) => say(`The project cannot be opened: ${error.message}`, true));

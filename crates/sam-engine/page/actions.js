// What a person does to the masks: prompts, commit, undo, choose, remove.

import { change, sent, travel } from "/page/operations.js";
import { $, chosen, image, keepSetting, page, show } from "/page/page.js";
import { undoCorner, dropPolygon } from "/page/polygon.js";
import { covers } from "/page/runs.js";
import { leave } from "/page/cursor.js";

/** Which object is at a pixel of the image: the smallest, as a part lies on its whole. */
export function objectAt(x, y, among = page.masks) {
  const there = among.filter((mask) => !page.hidden.has(mask.uuid) && covers(mask.shape, x, y));
  return there.reduce((best, mask) => (best && best.shape.area <= mask.shape.area ? best : mask), null);
}

/**
 * Adds a text, click, box, stroke or polygon to the draft. It revises the object or the proposal that is chosen; a text looks for an
 * object of its own rather than for a proposal.
 */
export function act(action) {
  const { draft, proposals } = page;
  if (!draft.size) return;
  Object.assign(page, { problem: "", news: "" });
  if (draft.isEmpty) {
    if (chosen() === null && action.kind === "point" && proposals.meets(action)) return;
    const revised = chosen() ?? (action.kind === "text" ? null : proposals.focused());
    if (revised) draft.revises = revised;
  }
  draft.add(action);
}

/** Saves the mask of the draft. When its answer is still awaited, then as soon as it is there. */
export function commit() {
  const { draft } = page;
  page.wantsCommit = draft.isAsking;
  if (draft.isAsking) return show();
  if (!draft.mask) {
    // A prompt without an answer is asked again.
    if (draft.prompts().length > 0 && draft.candidates.length === 0) draft.ask();
    return;
  }
  const candidate = draft.candidates[draft.choice], { revises } = draft;
  const isOld = revises !== null && page.masks.some(({ uuid }) => uuid === revises.uuid);
  const mask = {
    uuid: isOld || revises?.isProposal ? revises.uuid : crypto.randomUUID(),
    segmentation: draft.mask.segmentation,
    source: sourceOf(revises, candidate),
    class: revises && !revises.isProposal ? currentClass(revises) : $("class").value || null,
    prompts: joined(revises?.prompts, draft.prompt()),
    seconds: Math.round((draft.seconds + (revises?.seconds ?? 0)) * 100) / 100,
    predicted_iou: candidate?.predicted_iou ?? revises?.predicted_iou ?? null,
    model: draft.model ?? revises?.model ?? null,
  };
  const what = { kind: isOld ? "replace" : "add", mask: sent(mask) };
  draft.clear();
  page.selected = null;
  change(what);
  page.review.committed(mask.uuid);
}

/** The class may have changed while the mask was revised. */
const currentClass = (revised) => page.masks.find(({ uuid }) => uuid === revised.uuid)?.class ?? revised.class ?? null;

function sourceOf(revises, candidate) {
  if (!revises) return candidate ? "assisted" : "manual";
  if (revises.isProposal || ["automatic", "accepted", "imported"].includes(revises.source)) return "corrected";
  return revises.source === "manual" && candidate ? "assisted" : revises.source;
}

/** The prompts of a mask that was revised: what it was made with stays recorded. */
function joined(before, now) {
  if (!before) return now;
  const [box, text] = [now.box ?? before.box ?? null, now.text ?? before.text ?? null];
  return { points: [...before.points, ...now.points], box, strokes: before.strokes + now.strokes, text };
}

export function undo() {
  Object.assign(page, { problem: "", news: "", wantsCommit: false });
  if (undoCorner()) return;
  if (!page.draft.isEmpty) page.draft.undo();
  else travel("undo");
}

export function redo() {
  Object.assign(page, { problem: "", news: "" });
  if (page.draft.undone.length > 0) page.draft.redo();
  else travel("redo");
}

/** Leaves what is in the making: the cursor, the polygon, the draft, then the choice. */
export function drop() {
  Object.assign(page, { problem: "", news: "", wantsCommit: false });
  if (leave()) return;
  if (page.polygon) return dropPolygon();
  if (!page.draft.isEmpty) return page.draft.clear();
  if (page.selected === null) page.proposals.focus(null);
  select(null);
}

/** Chooses an object, or none; brings it into sight. */
export function select(uuid) {
  page.selected = uuid;
  if (uuid !== null) page.proposals.focus(null);
  const mask = chosen();
  if (mask) page.view.reveal(mask.shape.box);
  page.hover.follow();
  show();
}

/** Chooses what is at a pixel of the image. */
export function pick([x, y]) {
  if (!page.draft.isEmpty) return;
  const mask = objectAt(x, y);
  const proposal = mask ? null : objectAt(x, y, page.proposals.listed());
  if (proposal) page.proposals.focus(proposal.uuid);
  else select(mask && mask.uuid !== page.selected ? mask.uuid : null);
}

/** Chooses the object under the cursor of the keyboard or under the pointer. */
export function pickHere() {
  const at = page.cursor ?? (page.pointer && page.view.toImage(page.pointer.at));
  if (at) pick(at);
}

export function remove(mask) {
  if (mask.uuid === page.selected) page.selected = null;
  if (page.draft.revises?.uuid === mask.uuid) page.draft.clear();
  change({ kind: "delete", uuid: mask.uuid });
}

/** Whether a mask came from a model or another data set, and nobody has looked at it. */
export const isUnseen = (mask) => ["automatic", "imported"].includes(mask.source);

/** A person has looked at the mask: models may learn from it, and are measured by it. */
export function approve(mask) {
  if (isUnseen(mask)) change({ kind: "replace", mask: { ...sent(mask), source: "accepted" } });
}

export function classify(mask, name) {
  if ((mask.class ?? null) !== name) change({ kind: "replace", mask: { ...sent(mask), class: name } });
}

export function toggleState(state) {
  change({ kind: "state", state: image().state === state ? "open" : state });
}

export function writeNote(text) {
  if (text !== page.note) change({ kind: "note", text });
}

export function hide(mask) {
  if (!page.hidden.delete(mask.uuid)) page.hidden.add(mask.uuid);
  show();
}

export function hideAll() {
  page.allHidden = !page.allHidden;
  show();
}

/** Masks without their tint, so that what is under them is seen. */
export function toggleOutlines() {
  page.hasTint = !page.hasTint;
  keepSetting("tint", page.hasTint);
  show();
}

export function setTool(tool) {
  if (tool !== "polygon") page.polygon = null;
  page.tool = tool;
  leave();
  page.hover.follow();
  show();
}

export function resizeBrush(factor) {
  page.radius = Math.max(1, Math.min(500, page.radius * factor));
  page.view.redraw();
}

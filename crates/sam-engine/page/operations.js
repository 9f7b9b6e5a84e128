// Changes of the annotations: on the page at once, then through the outbox to the server. A finished mask is saved at once, and
// so is its undo.

import { load } from "/page/images.js";
import { signatureOf } from "/page/history.js";
import { image, page, say, show } from "/page/page.js";
import { shapeOf } from "/page/runs.js";

/** The mask as an operation has it. */
export function sent({ uuid, segmentation, source, class: name, prompts, seconds, predicted_iou, model }) {
  const { size, counts } = segmentation;
  return { uuid, segmentation: { size, counts }, source, class: name ?? null, prompts, seconds, predicted_iou, model: model ?? null };
}

/** Puts a mask on the page, at the end or in another's place. */
export function place(mask, at = page.masks.length) {
  const old = page.masks[at];
  const isSame = old?.segmentation.counts === mask.segmentation.counts;
  const shape = isSame ? old.shape : shapeOf(mask.segmentation);
  if (!shape) return;
  page.masks[at] = { ...mask, shape, colour: old?.colour ?? page.nextColour++, area: shape.area, sprite: isSame ? old.sprite : null };
}

/** Changes the page; returns the change that takes it back, or null when there is nothing to change. */
export function local(change) {
  const entry = image();
  const at = page.masks.findIndex((mask) => mask.uuid === (change.uuid ?? change.mask?.uuid));
  const old = page.masks[at];
  switch (change.kind) {
    case "add":
      if (old) return null;
      place(change.mask);
      if (entry.state === "todo") entry.state = "open";
      entry.masks = page.masks.length;
      return { kind: "delete", uuid: change.mask.uuid };
    case "replace":
      if (!old) return null;
      place(change.mask, at);
      return { kind: "replace", mask: sent(old) };
    case "delete":
      if (!old) return null;
      page.masks.splice(at, 1);
      entry.masks = page.masks.length;
      return { kind: "add", mask: sent(old) };
    case "state": {
      const before = entry.state;
      entry.state = change.state;
      return { kind: "state", state: before };
    }
    case "note": {
      const before = page.note;
      page.note = change.text;
      return { kind: "note", text: before };
    }
    case "reject":
      if (page.rejected.some(({ uuid }) => uuid === change.mask.uuid)) return null;
      page.rejected.push(change.mask);
      return { kind: "unreject", uuid: change.mask.uuid };
    case "unreject": {
      const before = page.rejected.find(({ uuid }) => uuid === change.uuid);
      page.rejected = page.rejected.filter((other) => other !== before);
      return before ? { kind: "reject", mask: before } : null;
    }
    default:
      return null;
  }
}

/** What an object, or the note, must still be for a change to be taken back. */
function leftBy({ kind, mask, text }) {
  if (kind === "note") return text;
  return kind === "add" || kind === "replace" ? signatureOf(mask) : null;
}

/** Carries out a change here and on the server. `from`: "undo" or "redo"; `group`: changes that are taken back together. */
export function change(what, { from = null, group = null } = {}) {
  const inverse = local(what);
  if (!inverse) return;
  const op = crypto.randomUUID(), { id } = image();
  page.history.note(id, { op, change: inverse, expects: leftBy(what), group }, from);
  page.outbox.push({ op, image: id, base: page.revision, change: what });
  page.isListStale = true;
  show();
}

/** Whether the object that an entry of the history changes is as this tab has left it. */
function isAsLeft({ change: { kind, uuid, mask, text }, expects }) {
  if (kind === "note") return page.note === expects || page.note === text;
  if (kind === "state" || kind === "reject" || kind === "unreject") return true;
  return signatureOf(page.masks.find((other) => other.uuid === (uuid ?? mask.uuid))) === expects;
}

/** Takes back the newest change, or carries out again what was taken back. */
export function travel(from) {
  const entries = page.history.take(image().id, from);
  const group = entries.length > 1 ? crypto.randomUUID() : null;
  const good = entries.filter(isAsLeft);
  for (const entry of good) change(entry.change, { from, group });
  if (good.length < entries.length) say(from === "undo" ? "Not undone: changed elsewhere in the meantime" : "Not done again: changed elsewhere in the meantime", true);
}

/** The server has an operation on disk. */
export function onApplied({ image: id, base, change: { kind } }, { revision, state }) {
  const entry = page.project.images.find((other) => other.id === id);
  if (entry && !page.outbox.hasOf(id) && entry.state !== state) {
    entry.state = state;
    page.isListStale = true;
  }
  if (image()?.id !== id) return;
  // Somebody else was here as well: show it.
  if (revision > base + 1 && !page.outbox.hasOf(id)) load().catch(() => {});
  else page.revision = Math.max(page.revision, revision);
  if (["add", "replace", "delete", "unreject"].includes(kind)) page.proposals.refresh();
  show();
}

/** The server will not carry out an operation: the page shows what is there. */
export function onRefused({ image: id, op }, error) {
  const wasUndo = page.history.forget(id, op);
  if (image()?.id !== id) return;
  const isConflict = error.body.status === "conflict";
  const what = wasUndo ? "Not undone" : "Not saved";
  say(isConflict ? `${what}: changed elsewhere in the meantime; shown as it is now` : `${what}: ${error.message}`, true);
  load().catch(() => {});
}

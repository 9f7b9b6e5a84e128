// What takes changes back, per image: inverse changes, as operations have them. They survive a reload, in this tab.
// An undo is an operation like any other, so another tab or person may have been there first: it is carried out only while the
// object is as this tab has left it.

/** Per image, and images per project. */
const MAX_ENTRIES = 200;
const MAX_IMAGES = 20;
/** Characters of an image's history; the browser gives a few million to all of them. */
const MAX_TEXT = 400_000;

/** Tells masks apart in a few characters. */
export function signatureOf(mask) {
  if (!mask) return null;
  const text = `${mask.segmentation.counts} ${mask.class ?? ""}`;
  let hash = 0;
  for (let at = 0; at < text.length; at++) hash = (Math.imul(hash, 31) + text.charCodeAt(at)) | 0;
  return `${text.length}:${hash}`;
}

export class History {
  constructor(project) {
    Object.assign(this, { prefix: `sam-train-history/${project}/`, loaded: new Map() });
  }

  /** {undo, redo}: lists of {op, change, expects, group}, newest last. `op` is the operation that the entry takes back. */
  of(image) {
    if (!this.loaded.has(image)) this.loaded.set(image, this.read(image));
    return this.loaded.get(image);
  }

  read(image) {
    try {
      const { undo, redo } = JSON.parse(sessionStorage.getItem(this.prefix + image)) ?? {};
      if (Array.isArray(undo) && Array.isArray(redo)) return { undo, redo };
    } catch { /* Damaged or forbidden storage is an empty history. */ }
    return { undo: [], redo: [] };
  }

  /** Notes what takes a change back; `from` is "undo" or "redo" when the change itself came from there. */
  note(image, entry, from) {
    const stacks = this.of(image);
    stacks[from === "undo" ? "redo" : "undo"].push(entry);
    if (from === null) stacks.redo = [];
    stacks.undo.splice(0, Math.max(0, stacks.undo.length - MAX_ENTRIES));
    this.keep(image);
  }

  /** Takes the newest entry, and those that were made together with it. */
  take(image, from) {
    const stack = this.of(image)[from];
    const { group } = stack.at(-1) ?? {};
    const entries = stack.length > 0 ? [stack.pop()] : [];
    while (group && stack.at(-1)?.group === group) entries.push(stack.pop());
    this.keep(image);
    return entries;
  }

  /** Forgets what takes an operation back that the server has refused; whether the operation was an undo or redo. */
  forget(image, op) {
    const stacks = this.of(image);
    const wasUndo = stacks.redo.some((entry) => entry.op === op);
    stacks.undo = stacks.undo.filter((entry) => entry.op !== op);
    stacks.redo = stacks.redo.filter((entry) => entry.op !== op);
    this.keep(image);
    return wasUndo;
  }

  keep(image) {
    const stacks = this.of(image);
    let text = JSON.stringify(stacks);
    while (text.length > MAX_TEXT && stacks.undo.length + stacks.redo.length > 0) {
      (stacks.undo.length > 0 ? stacks.undo : stacks.redo).splice(0, 10);
      text = JSON.stringify(stacks);
    }
    const key = this.prefix + image;
    try {
      const keys = Object.keys(sessionStorage).filter((other) => other.startsWith(this.prefix) && other !== key);
      for (const old of keys.slice(0, Math.max(0, keys.length - MAX_IMAGES + 1))) sessionStorage.removeItem(old);
      sessionStorage.setItem(key, text);
    } catch {
      // No room: this history lasts until the page is left.
      try { sessionStorage.removeItem(key); } catch { /* see above */ }
    }
  }
}

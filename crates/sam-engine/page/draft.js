// The object in the making: a list of actions (texts, clicks, boxes, strokes, polygons), and the mask that follows from all of them.
// Undo removes the last action and the mask is asked for again, so nothing has to be taken back. Strokes and polygons lie over
// the model's mask. A draft may revise a mask: it then begins with it, and clicks refine it.

import { painted } from "/page/brush.js";
import { cropOf, segmentationOf, shapeOf } from "/page/runs.js";
import { post } from "/page/server.js";

/** Pauses between actions count no longer than this. */
const LONGEST_PAUSE_S = 30;

const isPainting = ({ kind }) => kind === "stroke" || kind === "polygon";

export class Draft {
  /** `onChange()` after every change; `onMessage(text, isBad)`. */
  constructor({ onChange, onMessage }) {
    Object.assign(this, { onChange, onMessage, tab: crypto.randomUUID(), number: 0, image: null, size: null });
    this.clear();
  }

  /** Another image, or the same one afresh; `size` is [height, width]. */
  begin(image, size) {
    Object.assign(this, { image, size });
    this.clear();
  }

  clear() {
    this.request?.abort();
    Object.assign(this, { actions: [], undone: [], candidates: [], choice: 0, isPicked: false, mask: null, composed: null, model: null });
    Object.assign(this, { request: null, isAsking: false, seconds: 0, last: null, revises: null });
    this.onChange();
  }

  get isEmpty() {
    return this.actions.length === 0;
  }

  get points() {
    return this.actions.filter((action) => action.kind === "point");
  }

  get box() {
    return this.actions.findLast((action) => action.kind === "box")?.box ?? null;
  }

  get text() {
    return this.actions.findLast((action) => action.kind === "text")?.text ?? null;
  }

  get paintings() {
    return this.actions.filter(isPainting);
  }

  /**
   * Adds {kind: "text", text}, {kind: "point", xy, positive}, {kind: "box", box}, {kind: "stroke", points, radii, erases} (a radius
   * for every point) or {kind: "polygon", corners, erases}.
   */
  add(action) {
    const now = performance.now() / 1000;
    if (this.last !== null) this.seconds += Math.min(LONGEST_PAUSE_S, now - this.last);
    this.last = now;
    // Of three masks, the one that was picked is what the next clicks refine. Remembered with the click, so that undo asks the same.
    const picked = this.isPicked && this.candidates.length > 1 ? this.choice : this.prompts().at(-1)?.picked;
    this.actions.push(isPainting(action) ? action : { ...action, picked });
    this.undone = [];
    this.follow(action);
  }

  prompts() {
    return this.actions.filter((action) => !isPainting(action));
  }

  /** Removes a click by pointing at it. */
  remove(action) {
    this.actions = this.actions.filter((other) => other !== action);
    this.follow(action);
  }

  undo() {
    const action = this.actions.pop();
    this.undone.push(action);
    this.follow(action);
  }

  redo() {
    const action = this.undone.pop();
    this.actions.push(action);
    this.follow(action);
  }

  /** What an action changes: the model's mask, or what is painted over it. */
  follow(action) {
    if (isPainting(action)) this.compose();
    else this.ask();
  }

  /** Picks one of the masks. */
  choose(choice) {
    if (choice < 0 || choice >= this.candidates.length) return;
    Object.assign(this, { choice, isPicked: true });
    this.compose();
  }

  /** What a request says beside the prompt: the mask that is refined, unless a box or a text says anew what it is, or which of three is. */
  context() {
    const picked = this.prompts().at(-1)?.picked;
    if (this.revises && this.box === null && this.text === null) {
      const { size, counts } = this.revises.segmentation;
      return { mask: { size, counts } };
    }
    return picked === undefined ? {} : { choice: picked };
  }

  /** Asks for the masks of the prompt. The newest request wins: the one before is given up. */
  async ask() {
    this.request?.abort();
    this.number += 1;
    if (this.points.length === 0 && this.box === null && this.text === null) {
      Object.assign(this, { candidates: [], choice: 0, isPicked: false, model: null, isAsking: false, request: null });
      this.compose();
      return;
    }
    const { image, number, tab } = this;
    const request = new AbortController();
    Object.assign(this, { request, isAsking: true });
    this.onChange();
    const body = { image, tab, number, prompt: this.prompt(), ...this.context() };
    try {
      const answer = await post("/api/predict", body, request.signal);
      // An old answer, or one of another image, is never shown.
      if (answer.number !== this.number || answer.image !== this.image || request.signal.aborted) return;
      const choice = answer.candidates.reduce(
        (best, candidate, index, all) => (candidate.predicted_iou > all[best].predicted_iou ? index : best), 0);
      Object.assign(this, { candidates: answer.candidates, choice, isPicked: false, model: answer.model, isAsking: false });
      this.compose();
    } catch (error) {
      if (request.signal.aborted || number !== this.number) return;
      this.isAsking = false;
      this.onMessage(error.status ? error.message : "The server does not answer; Enter or another click asks again", true);
      // A text that CLIP cannot take is no part of the prompt: the masks that are shown are those of the others.
      if (error.status === 400 && this.actions.at(-1)?.kind === "text") this.actions.pop();
      if (this.isEmpty) this.compose();
      else this.onChange();
    }
  }

  /** The prompt as the server and the annotation file have it. */
  prompt() {
    const points = this.points.map(({ xy, positive }) => [...xy, positive ? 1 : 0]);
    return { points, box: this.box, strokes: this.paintings.length, text: this.text };
  }

  /** The mask: that of the model or the one that is revised, with the strokes over it. */
  compose() {
    if (this.isEmpty) this.revises = null;
    const base = this.candidates[this.choice] ?? this.revises;
    const { paintings } = this;
    if (paintings.length === 0) {
      this.composed = null;
      this.mask = base ? this.maskOf(base.segmentation) : null;
    } else {
      const crop = this.paint(base?.segmentation ?? null, paintings);
      this.mask = crop && crop.data.includes(1) ? this.maskOf(segmentationOf(crop, this.size)) : null;
    }
    this.onChange();
  }

  /** {segmentation, shape, sprite}, or null when it has no pixel. */
  maskOf(segmentation) {
    if (this.mask?.segmentation === segmentation) return this.mask;
    const shape = shapeOf(segmentation);
    return shape && { segmentation, shape, sprite: null };
  }

  /** The bitmap with all strokes; only those are painted that came since the last time. */
  paint(base, paintings) {
    const before = this.composed;
    const isLonger = before?.base === base && before.paintings.every((painting, index) => painting === paintings[index]);
    const shape = !isLonger && base ? shapeOf(base) : null;
    let crop = isLonger ? before.crop : shape && cropOf(shape);
    for (const painting of paintings.slice(isLonger ? before.paintings.length : 0)) crop = painted(crop, painting, this.size);
    this.composed = { base, paintings, crop };
    return crop;
  }
}

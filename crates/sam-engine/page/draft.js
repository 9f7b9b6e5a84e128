// The object in the making: a list of actions (clicks, boxes, strokes), and the mask that follows from all of them.
// Undo removes the last action and the mask is asked for again, so nothing has to be taken back. Strokes lie over the model's mask.

import { post } from "/page/server.js";
import { areaOf, cropOf } from "/page/runs.js";
import { painted } from "/page/masks.js";

/** Pauses between actions count no longer than this. */
const LONGEST_PAUSE_S = 30;

export class Draft {
  /** `onChange()` after every change; `onMessage(text, isBad)`. */
  constructor({ onChange, onMessage }) {
    Object.assign(this, { onChange, onMessage, tab: crypto.randomUUID(), number: 0, image: null, size: null });
    this.clear();
  }

  /** Another image, or the same one afresh. */
  begin(image, size) {
    Object.assign(this, { image, size });
    this.clear();
  }

  clear() {
    this.request?.abort();
    Object.assign(this, { actions: [], undone: [], candidates: [], choice: 0, crop: null, model: null });
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

  get strokes() {
    return this.actions.filter((action) => action.kind === "stroke");
  }

  /** Adds `{kind: "point", xy, positive}`, `{kind: "box", box}` or `{kind: "stroke", points, radius, erases}`. */
  add(action) {
    const now = performance.now() / 1000;
    if (this.last !== null) this.seconds += Math.min(LONGEST_PAUSE_S, now - this.last);
    this.last = now;
    this.actions.push(action);
    this.undone = [];
    this.follow(action);
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

  /** What an action changes: the model's mask, or the strokes over it. */
  follow(action) {
    if (action.kind === "stroke") this.compose();
    else this.ask();
  }

  choose(choice) {
    if (choice < 0 || choice >= this.candidates.length) return;
    this.choice = choice;
    this.compose();
  }

  /** Asks for the masks of the prompt. The newest request wins: the one before is given up. */
  async ask() {
    this.request?.abort();
    this.number += 1;
    const hasPrompt = this.points.length > 0 || this.box !== null;
    if (!hasPrompt) {
      Object.assign(this, { candidates: [], choice: 0, model: null, isAsking: false, request: null });
      this.compose();
      return;
    }
    const { image, number } = this;
    const request = new AbortController();
    Object.assign(this, { request, isAsking: true });
    this.onChange();
    try {
      const answer = await post("/api/predict", { image, tab: this.tab, number, prompt: this.prompt() }, request.signal);
      // An old answer, or one of another image, is never shown.
      if (answer.number !== this.number || answer.image !== this.image || request.signal.aborted) return;
      const choice = answer.candidates.reduce(
        (best, candidate, index, all) => (candidate.predicted_iou > all[best].predicted_iou ? index : best), 0);
      Object.assign(this, { candidates: answer.candidates, choice, model: answer.model, isAsking: false });
      this.compose();
    } catch (error) {
      if (request.signal.aborted || number !== this.number) return;
      this.isAsking = false;
      this.onMessage(error.status ? error.message : "The server does not answer", true);
      this.onChange();
    }
  }

  /** The prompt as the server and the annotation file have it. */
  prompt() {
    const points = this.points.map(({ xy, positive }) => [...xy, positive ? 1 : 0]);
    return { points, box: this.box, strokes: this.strokes.length };
  }

  /** The mask: that of the model, with the strokes over it. */
  compose() {
    const chosen = this.candidates[this.choice];
    if (this.isEmpty) this.revises = null;
    let crop = chosen ? cropOf(chosen.segmentation) : this.revises?.crop ?? null;
    for (const stroke of this.strokes) crop = painted(crop, stroke, this.size);
    this.crop = crop && areaOf(crop) > 0 ? crop : null;
    this.onChange();
  }
}

// The preview of a click: the mask under the pointer, faintly. One request at a time; when it is answered, the newest place is
// asked for. It never waits for the encoder and has a tab id of its own, so no click waits for it.

import { chosen, image, keepSetting, page, setting } from "/page/page.js";
import { shapeOf } from "/page/runs.js";
import { post } from "/page/server.js";

/** Between two requests. */
const PAUSE_MS = 50;
/** Pixels of the page; the answer for a place nearer than that is as good. */
const NEAR_PX = 3;

export class Hover {
  constructor() {
    Object.assign(this, { tab: crypto.randomUUID(), number: 0, isBusy: false, asked: null, mask: null, image: null });
    this.isOn = setting("hover", true);
  }

  toggle() {
    this.isOn = !this.isOn;
    keepSetting("hover", this.isOn);
    this.follow();
  }

  /** Whether a preview has a place now. */
  get isWanted() {
    const { draft, pointer, readiness, view, tool, shown } = page;
    const isFree = this.isOn && tool === "click" && draft.isEmpty && chosen() === null && !page.proposals.focused() && shown === null;
    return isFree && pointer?.type !== "touch" && pointer?.isPressed === false && readiness.state === "ready" && draft.size !== null
      && !page.isSpaceDown && view.contains(view.toImage(pointer.at));
  }

  /** The pointer, or what is under it, has changed. */
  follow() {
    if (!this.isWanted) return this.drop();
    if (!this.isBusy) this.ask();
  }

  drop() {
    this.asked = null;
    if (!this.mask) return;
    this.mask = null;
    page.view.redraw();
  }

  async ask() {
    const { at } = page.pointer, { id } = image();
    const isNear = this.asked && this.asked.id === id && Math.hypot(this.asked.at[0] - at[0], this.asked.at[1] - at[1]) < NEAR_PX;
    if (isNear) return;
    Object.assign(this, { isBusy: true, asked: { at, id } });
    this.number += 1;
    const prompt = { points: [[...page.view.toImage(at), 1]], box: null, strokes: 0 };
    try {
      const { candidates } = await post("/api/predict", { image: id, tab: this.tab, number: this.number, prompt, hover: true });
      const shape = candidates[0] ? shapeOf(candidates[0].segmentation) : null;
      if (this.isWanted && image()?.id === id) this.mask = shape && { shape, sprite: null };
      page.view.redraw();
    } catch {
      // A preview that fails is no preview; what is wrong is said when somebody clicks.
      this.mask = null;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    this.isBusy = false;
    this.follow();
  }
}

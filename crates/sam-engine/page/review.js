// The review: a random sample of automatic masks, each seen in the five views of the paper (image, overlay, mask alone, zoom
// without and with the mask), and judged: good, corrected or deleted. The share of those that were right is the quality of the rest.

import { load, open } from "/page/images.js";
import { select } from "/page/actions.js";
import { $, image, page, sentence, write } from "/page/page.js";
import { shapeOf } from "/page/runs.js";
import { Sprites } from "/page/sprites.js";
import { get, post } from "/page/server.js";

const COLOUR = [255, 196, 0];
const VERDICTS = { good: "good", corrected: "corrected", deleted: "deleted" };
/** Around the object in the zoomed views, as a share of its larger side. */
const MARGIN = 0.35;

const percent = (value) => `${(100 * value).toFixed(1)} %`;

export class Review {
  constructor(goTo) {
    Object.assign(this, { goTo, answer: null, at: 0, seen: null, isBusy: false, correcting: null, number: 0 });
    const on = (id, action) => { $(id).onclick = action; };
    on("review-good", () => this.good());
    on("review-correct", () => this.correct());
    on("review-delete", () => this.remove());
    on("review-before", () => this.step(-1));
    on("review-after", () => this.step(1));
    on("review-back", () => this.back());
    $("review-form").onsubmit = (event) => { event.preventDefault(); this.draw(); };
    new ResizeObserver(() => this.paint()).observe($("review-views"));
  }

  get item() {
    return this.answer?.items[this.at] ?? null;
  }

  /** The page is shown. */
  async enter() {
    await this.attempt(async () => {
      this.answer = await get("/api/review");
      const kept = this.answer?.items.findIndex(({ uuid }) => uuid === this.correcting?.uuid) ?? -1;
      const open = this.answer?.items.findIndex(({ verdict }) => verdict === null) ?? -1;
      this.at = kept >= 0 ? kept : Math.max(0, open);
      await this.look();
    });
  }

  /** Draws a new sample. */
  draw() {
    return this.attempt(async () => {
      this.answer = await post("/api/review", { n: Number($("review-n").value) });
      this.at = 0;
      await this.look();
    });
  }

  async attempt(action) {
    if (this.isBusy) return;
    this.isBusy = true;
    try {
      write($("review-problem"), "");
      await action();
    } catch (error) {
      write($("review-problem"), error.status ? sentence(error.message) : "The server does not answer");
    }
    this.isBusy = false;
    this.show();
  }

  /** Loads the image and the mask of the current item. */
  async look() {
    const { item } = this, number = ++this.number;
    if (!item) { this.see(null); return; }
    if (this.seen?.uuid === item.uuid && this.seen.verdict === item.verdict) return;
    const response = this.seen?.image === item.image ? null : await fetch(`/api/images/${item.image}/pixels`);
    if (response && !response.ok) throw new Error((await response.json()).error);
    const picture = response ? await createImageBitmap(await response.blob()) : this.seen.picture;
    const { masks, revision } = await get(`/api/images/${item.image}`);
    if (number !== this.number) return;
    const mask = masks.find(({ uuid }) => uuid === item.uuid) ?? null;
    const shape = mask && shapeOf(mask.segmentation);
    this.see({ image: item.image, uuid: item.uuid, verdict: item.verdict, picture, revision, mask: shape && { shape, sprite: null } });
  }

  see(seen) {
    if (this.seen?.picture !== seen?.picture) this.seen?.picture.close();
    this.seen = seen;
    this.paint();
  }

  step(by) {
    const n = this.answer?.items.length ?? 0;
    if (n === 0) return undefined;
    return this.attempt(async () => { this.at = Math.max(0, Math.min(n - 1, this.at + by)); await this.look(); });
  }

  /** Measures the mask as it is now, and goes on with the next that is not judged. */
  async judge({ image, uuid }) {
    this.answer = await post("/api/review/judge", { image, uuid });
    const { items } = this.answer;
    const after = items.findIndex(({ verdict }, index) => index > this.at && verdict === null);
    const next = after >= 0 ? after : items.findIndex(({ verdict }) => verdict === null);
    if (next >= 0) this.at = next;
    await this.look();
  }

  good() {
    return this.item && this.attempt(() => this.judge(this.item));
  }

  remove() {
    const { item, seen } = this;
    if (!item || !seen?.mask) return undefined;
    return this.attempt(async () => {
      page.outbox.push({ op: crypto.randomUUID(), image: item.image, base: seen.revision, change: { kind: "delete", uuid: item.uuid } });
      await page.outbox.settled();
      // The annotator shows the same image: not with a mask that is gone.
      if (item.image === image()?.id) await load();
      await this.judge(item);
    });
  }

  /** Opens the image with the mask chosen; the next commit of it is judged. */
  async correct() {
    const { item } = this;
    const index = page.project.images.findIndex(({ id }) => id === item?.image);
    if (index < 0) return;
    this.correcting = item;
    await this.goTo("image");
    await open(index);
    select(item.uuid);
    this.show();
  }

  /** A mask has been committed in the annotator. */
  committed(uuid) {
    if (this.correcting?.uuid === uuid) this.back();
  }

  /** Back from the annotator, with the mask as it is now. */
  async back() {
    const item = this.correcting;
    if (!item) return;
    await page.outbox.settled();
    await this.attempt(() => this.judge(item));
    this.correcting = null;
    this.see(null);
    await this.goTo("review");
  }

  show() {
    const { answer, item } = this;
    $("correcting").hidden = this.correcting === null;
    const n = answer?.items.length ?? 0;
    $("review-empty").hidden = n > 0;
    $("review-work").hidden = n === 0;
    if (!answer || n === 0) {
      write($("review-share"), answer?.n_automatic === 0 ? "There are no automatic masks yet." : "");
      return;
    }
    const { n_judged: judged, share, low, high, limit_iou: limit, n_automatic: total } = answer;
    write($("review-share"), judged === 0 ? `None of ${n} judged yet, of ${total.toLocaleString()} automatic masks.`
      : `${percent(share)} of ${judged} judged are right above IoU ${limit.toFixed(2)} (95 % interval ${percent(low)} to ${percent(high)}).`);
    $("review-bar").max = n;
    $("review-bar").value = judged;
    $("review-bar").setAttribute("aria-label", `${judged} of ${n} judged`);
    write($("review-count"), `${this.at + 1} of ${n}, ${judged} judged`);
    write($("review-name"), item.name);
    const iou = item.iou === null ? "" : `, IoU ${item.iou.toFixed(2)}`;
    write($("review-verdict"), item.verdict ? `${VERDICTS[item.verdict]}${iou}` : "");
    $("review-verdict").className = `decision ${item.verdict ?? ""}`;
    const isGone = this.seen !== null && this.seen.mask === null;
    for (const id of ["review-good", "review-correct", "review-delete"]) $(id).disabled = this.isBusy || isGone;
    $("review-before").disabled = this.at === 0;
    $("review-after").disabled = this.at === n - 1;
  }

  /** The five views. */
  paint() {
    const { seen } = this;
    const whole = seen && { x: 0, y: 0, width: seen.picture.width, height: seen.picture.height };
    const near = seen?.mask ? around(seen.mask.shape.box, whole) : whole;
    for (const view of $("review-views").querySelectorAll("canvas")) {
      const { part, with: what } = view.dataset;
      drawView(view, seen, part === "near" ? near : whole, what);
    }
  }
}

/** A box and what is around it, within the image. */
function around({ x, y, width, height }, whole) {
  const margin = Math.max(8, MARGIN * Math.max(width, height));
  const [left, top] = [Math.max(0, x - margin), Math.max(0, y - margin)];
  return { x: left, y: top, width: Math.min(whole.width, x + width + margin) - left, height: Math.min(whole.height, y + height + margin) - top };
}

function drawView(canvas, seen, box, what) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(1, Math.round(side * ratio)));
  Object.assign(canvas, { width, height });
  if (!seen) return;
  const context = canvas.getContext("2d");
  const scale = Math.min(width / box.width, height / box.height);
  context.setTransform(scale, 0, 0, scale, (width - box.width * scale) / 2 - box.x * scale, (height - box.height * scale) / 2 - box.y * scale);
  context.imageSmoothingQuality = "high";
  context.imageSmoothingEnabled = scale < 3;
  const draw = () => context.drawImage(seen.picture, box.x, box.y, box.width, box.height, box.x, box.y, box.width, box.height);
  if (what !== "mask") draw();
  if (what === "image" || !seen.mask) return;
  const sprites = new Sprites();
  sprites.begin(1 / scale, box);
  // Each view has its own scale, so its own picture.
  const item = { shape: seen.mask.shape, sprite: null };
  if (what === "overlay") { sprites.draw(context, item, COLOUR, "draft"); return; }
  // The object on nothing: its pixels only.
  sprites.draw(context, item, [255, 255, 255], "alone");
  context.globalCompositeOperation = "source-in";
  draw();
  context.globalCompositeOperation = "source-over";
}

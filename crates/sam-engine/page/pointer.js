// Mouse, pen and touch on the canvas, as actions on the page.

import { act, pick } from "/page/actions.js";
import { page, show } from "/page/page.js";
import { addCorner } from "/page/polygon.js";

/** Beyond this many pixels of the page, a click is a drag. */
const DRAG_PX = 5;
/** Within this many pixels of the page, a click is on a point. */
const POINT_PX = 8;
/** A touch this soon after the pen is the palm of the hand. */
const PALM_MS = 800;
/** Half of a pen's pressure is the radius of the brush; none and all of it are these shares of it. */
const PRESSURE = { least: 0.4, most: 1.6 };

/** A point, or the removal of the one that is there. */
export function clickAt(at, positive) {
  const xy = page.view.toImage(at);
  if (!page.view.contains(xy)) return;
  const distance = (point) => { const [x, y] = page.view.toCanvas(point.xy); return Math.hypot(x - at[0], y - at[1]); };
  const there = page.draft.points.find((point) => distance(point) < POINT_PX);
  if (there) page.draft.remove(there);
  else act({ kind: "point", xy, positive });
}

/** The box between two places, whichever way it was dragged, within the image. */
function boxOf(start, end) {
  const [a, b] = [page.view.toImage(start), page.view.toImage(end)];
  const within = (value, size) => Math.max(0, Math.min(size, value));
  const [width, height] = page.view.size;
  return [within(Math.min(a[0], b[0]), width), within(Math.min(a[1], b[1]), height),
    within(Math.max(a[0], b[0]), width), within(Math.max(a[1], b[1]), height)];
}

/** What the canvas is told, and what it means. */
export class Pointer {
  constructor(canvas) {
    Object.assign(this, { canvas, touches: new Map(), drag: null, penAt: -Infinity });
    const on = (name, handler, options) => canvas.addEventListener(name, (event) => handler.call(this, event), options);
    on("contextmenu", (event) => event.preventDefault());
    on("wheel", this.wheel, { passive: false });
    on("pointerdown", this.down);
    on("pointermove", this.move);
    on("pointerup", this.up);
    on("pointercancel", this.up);
    on("pointerleave", () => this.note(null));
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  /** Remembers where the pointer is. */
  note(event) {
    page.pointer = event && { at: this.place(event), type: event.pointerType, isPressed: event.buttons !== 0 };
    page.hover.follow();
    if (page.tool !== "click") page.view.redraw();
  }

  wheel(event) {
    event.preventDefault();
    const { view } = page;
    const unit = event.deltaMode === 1 ? 16 : 1;
    // A pinch on a trackpad arrives as a wheel with Ctrl; two fingers sideways pan.
    const isPan = !event.ctrlKey && (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY));
    if (isPan) view.pan(-(event.deltaX || event.deltaY) * unit, event.shiftKey ? 0 : -event.deltaY * unit);
    else view.zoom(Math.exp(-event.deltaY * unit * (event.ctrlKey ? 0.01 : 0.0016)), this.place(event));
  }

  isPalm(event) {
    if (event.pointerType === "pen") this.penAt = performance.now();
    return event.pointerType === "touch" && performance.now() - this.penAt < PALM_MS;
  }

  down(event) {
    if (this.isPalm(event)) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    const at = this.place(event);
    if (event.pointerType === "touch") this.touches.set(event.pointerId, at);
    if (this.touches.size === 2) {
      // Two fingers move the image; what the first one began is dropped.
      this.drag = { kind: "pinch" };
      this.preview(null);
      return;
    }
    if (this.drag || this.touches.size > 2) return;
    // The right button, Shift, the far end of a pen, or the button for those who have only a finger.
    const isOther = (event.button === 2 || event.shiftKey || event.button === 5) !== page.isOther;
    if (event.button === 1 || page.isSpaceDown) {
      this.drag = { kind: "pan", last: at };
      this.canvas.classList.add("panning");
    } else if (event.altKey) {
      this.drag = { kind: "pick", start: at };
    } else if (page.tool === "click" || page.tool === "polygon") {
      this.drag = { kind: page.tool, start: at, isOther, isBox: false };
    } else {
      this.drag = { kind: "stroke", erases: (page.tool === "eraser") !== isOther, points: [page.view.toImage(at)], radii: [radiusOf(event)] };
      this.preview({ stroke: this.stroke() });
    }
    this.note(event);
  }

  stroke() {
    const { points, radii, erases } = this.drag;
    return { points, radii, erases };
  }

  move(event) {
    if (this.isPalm(event)) return;
    const { drag, touches } = this;
    const at = this.place(event);
    this.note(event);
    if (touches.has(event.pointerId)) {
      const before = [...touches.values()];
      touches.set(event.pointerId, at);
      if (drag?.kind === "pinch" && touches.size === 2) pinch(before, [...touches.values()]);
    }
    if (drag?.kind === "pan") {
      page.view.pan(at[0] - drag.last[0], at[1] - drag.last[1]);
      drag.last = at;
    } else if (drag?.kind === "click" && !drag.isOther) {
      drag.isBox ||= Math.hypot(at[0] - drag.start[0], at[1] - drag.start[1]) > DRAG_PX;
      if (drag.isBox) this.preview({ box: boxOf(drag.start, at) });
    } else if (drag?.kind === "stroke") {
      // Every sample between two frames, so that quick strokes have no corners.
      const samples = event.getCoalescedEvents?.() ?? [];
      for (const sample of samples.length > 0 ? samples : [event]) {
        drag.points.push(page.view.toImage(this.place(sample)));
        drag.radii.push(radiusOf(sample));
      }
      this.preview({ stroke: this.stroke() });
    }
  }

  preview(shown) {
    page.shown = shown;
    page.view.redraw();
  }

  up(event) {
    const { drag, touches, canvas } = this;
    touches.delete(event.pointerId);
    canvas.classList.remove("panning");
    if (drag?.kind === "pinch") {
      if (touches.size === 0) this.drag = null;
      return;
    }
    const made = drag?.kind === "stroke" ? this.stroke() : null;
    this.drag = null;
    this.preview(null);
    if (!drag || event.type === "pointercancel") return;
    const at = this.place(event), { start } = drag;
    if (made) act({ kind: "stroke", ...made });
    else if (drag.kind === "click" && drag.isBox) {
      const box = boxOf(start, at);
      if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) act({ kind: "box", box });
    } else if (drag.kind === "click") clickAt(start, !drag.isOther);
    else if (drag.kind === "polygon") addCorner(page.view.toImage(start), drag.isOther);
    else if (drag.kind === "pick") pick(page.view.toImage(start));
    this.note(event);
    show();
  }
}

/** What a pen's pressure makes of the brush; a mouse has none. */
function radiusOf({ pointerType, pressure }) {
  return pointerType === "pen" && pressure > 0 ? page.radius * (PRESSURE.least + (PRESSURE.most - PRESSURE.least) * pressure) : page.radius;
}

function pinch([a, b], [c, d]) {
  const middle = ([x, y], [u, v]) => [(x + u) / 2, (y + v) / 2];
  const [from, to] = [middle(a, b), middle(c, d)];
  const length = ([x, y], [u, v]) => Math.max(1, Math.hypot(x - u, y - v));
  page.view.pan(to[0] - from[0], to[1] - from[1]);
  page.view.zoom(length(c, d) / length(a, b), to);
}

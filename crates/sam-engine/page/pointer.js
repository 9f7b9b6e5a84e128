// Mouse, pen, touch and keys on the canvas, as actions on the page.

/** Beyond this many pixels of the page, a click is a drag. */
const DRAG_PX = 5;
/** Within this many pixels of the page, a click is on a point. */
const POINT_PX = 8;

/** Joins the canvas to the page: `page` has view, draft, tool, radius and the actions below. */
export function listen(canvas, page) {
  const { view } = page;
  const touches = new Map();
  let drag = null;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  canvas.addEventListener("contextmenu", (event) => event.preventDefault());

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 16 : 1;
    // A pinch on a trackpad arrives as a wheel with Ctrl; two fingers sideways pan.
    const isPan = !event.ctrlKey && (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY));
    if (isPan) view.pan(-(event.deltaX || event.deltaY) * unit, event.shiftKey ? 0 : -event.deltaY * unit);
    else view.zoom(Math.exp(-event.deltaY * unit * (event.ctrlKey ? 0.01 : 0.0016)), place(event));
  }, { passive: false });

  canvas.addEventListener("pointerdown", (event) => {
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    const at = place(event);
    if (event.pointerType === "touch") touches.set(event.pointerId, at);
    if (touches.size === 2) {
      // Two fingers move the image; what the first one began is dropped.
      drag = { kind: "pinch" };
      page.preview(null);
      return;
    }
    if (drag || touches.size > 2) return;
    const isPan = event.button === 1 || page.isSpaceDown;
    const isOther = event.button === 2 || event.shiftKey;
    if (isPan) {
      drag = { kind: "pan", last: at };
      canvas.classList.add("panning");
    } else if (page.tool === "click") {
      drag = { kind: "click", start: at, isOther, isBox: false };
    } else {
      drag = { kind: "stroke", erases: (page.tool === "eraser") !== isOther, points: [view.toImage(at)] };
      page.preview({ stroke: stroke() });
    }
  });

  const stroke = () => ({ points: drag.points, radius: page.radius, erases: drag.erases });

  canvas.addEventListener("pointermove", (event) => {
    const at = place(event);
    page.hover(at);
    if (touches.has(event.pointerId)) {
      const before = [...touches.values()];
      touches.set(event.pointerId, at);
      if (drag?.kind === "pinch" && touches.size === 2) pinch(before, [...touches.values()]);
    }
    if (drag?.kind === "pan") {
      view.pan(at[0] - drag.last[0], at[1] - drag.last[1]);
      drag.last = at;
    } else if (drag?.kind === "click" && !drag.isOther) {
      drag.isBox ||= Math.hypot(at[0] - drag.start[0], at[1] - drag.start[1]) > DRAG_PX;
      if (drag.isBox) page.preview({ box: boxOf(drag.start, at) });
    } else if (drag?.kind === "stroke") {
      // Every sample between two frames, so that quick strokes have no corners.
      const samples = event.getCoalescedEvents?.() ?? [];
      for (const sample of samples.length > 0 ? samples : [event]) drag.points.push(view.toImage(place(sample)));
      page.preview({ stroke: stroke() });
    }
  });

  function pinch([a, b], [c, d]) {
    const middle = ([x, y], [u, v]) => [(x + u) / 2, (y + v) / 2];
    const [from, to] = [middle(a, b), middle(c, d)];
    const length = ([x, y], [u, v]) => Math.max(1, Math.hypot(x - u, y - v));
    view.pan(to[0] - from[0], to[1] - from[1]);
    view.zoom(length(c, d) / length(a, b), to);
  }

  /** The box between two places, whichever way it was dragged, within the image. */
  function boxOf(start, end) {
    const [a, b] = [view.toImage(start), view.toImage(end)];
    const within = (value, size) => Math.max(0, Math.min(size, value));
    const [width, height] = view.size;
    return [within(Math.min(a[0], b[0]), width), within(Math.min(a[1], b[1]), height),
      within(Math.max(a[0], b[0]), width), within(Math.max(a[1], b[1]), height)];
  }

  const finish = (event) => {
    touches.delete(event.pointerId);
    canvas.classList.remove("panning");
    const done = drag;
    if (done?.kind === "pinch") {
      if (touches.size === 0) drag = null;
      return;
    }
    if (!done || event.type === "pointercancel") {
      drag = null;
      page.preview(null);
      return;
    }
    const at = place(event);
    const made = done.kind === "stroke" ? stroke() : null;
    drag = null;
    page.preview(null);
    if (made) page.act({ kind: "stroke", ...made });
    else if (done.kind === "click" && done.isBox) {
      const box = boxOf(done.start, at);
      if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) page.act({ kind: "box", box });
    } else if (done.kind === "click") click(done.start, !done.isOther);
  };
  canvas.addEventListener("pointerup", finish);
  canvas.addEventListener("pointercancel", finish);
  canvas.addEventListener("pointerleave", () => page.hover(null));

  /** A point, or the removal of the one that is there. */
  function click(at, positive) {
    const xy = view.toImage(at);
    if (!view.contains(xy)) return;
    const distance = ({ xy }) => { const [x, y] = view.toCanvas(xy); return Math.hypot(x - at[0], y - at[1]); };
    const there = page.draft.points.find((point) => distance(point) < POINT_PX);
    if (there) page.draft.remove(there);
    else page.act({ kind: "point", xy, positive });
  }

  /** A click of the keyboard's cursor. */
  return { click };
}

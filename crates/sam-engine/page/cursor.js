// All tools without a mouse: a cursor that the arrow keys move, and Enter.

import { act, commit } from "/page/actions.js";
import { image, page, show } from "/page/page.js";
import { clickAt } from "/page/pointer.js";
import { addCorner, closePolygon } from "/page/polygon.js";

/** Pixels of the page for one key press. */
const STEP_PX = 8;
const FAST_PX = 40;

/** Where it was last, and what it draws. `box`: its first corner; `stroke`: what it paints. */
const state = { image: null, box: null, stroke: null, hasMoved: false };

/** Moves the cursor, which starts in the middle of what is in sight. */
export function moveCursor(dx, dy, isFast) {
  const { view } = page;
  if (!page.draft.size) return;
  if (state.image !== image().id) Object.assign(state, { image: image().id, box: null, stroke: null });
  const step = (isFast ? FAST_PX : STEP_PX) / view.scale;
  const [x, y] = page.cursor ?? view.toImage(view.place.map((side) => side / 2));
  const [width, height] = view.size;
  const within = (value, size) => Math.max(0, Math.min(size - 0.5, value));
  page.cursor = [within(x + dx * step, width), within(y + dy * step, height)];
  state.hasMoved = true;
  view.reveal({ x: page.cursor[0], y: page.cursor[1], width: 0, height: 0 });
  if (state.box) page.shown = { box: boxTo(page.cursor) };
  if (state.stroke) {
    state.stroke.points.push(page.cursor);
    state.stroke.radii.push(page.radius);
    page.shown = { stroke: state.stroke };
  }
  show();
}

function boxTo([x, y]) {
  const [bx, by] = state.box;
  return [Math.min(x, bx), Math.min(y, by), Math.max(x, bx), Math.max(y, by)];
}

/** Begins a box at the cursor. */
export function beginBox() {
  if (!page.cursor) moveCursor(0, 0, false);
  if (!page.cursor) return;
  state.box = page.cursor;
  page.shown = { box: boxTo(page.cursor) };
  show();
}

/** Enter: what the cursor does at its place; without one, a polygon is closed or the mask committed. */
export function enter(event) {
  const { cursor, tool } = page;
  if (!cursor || !state.hasMoved) {
    if (page.polygon) return closePolygon();
    return commit();
  }
  const isOther = event.shiftKey;
  if (state.box) {
    const box = boxTo(cursor);
    leave();
    if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) act({ kind: "box", box });
  } else if (tool === "polygon") {
    addCorner(cursor, isOther);
    state.hasMoved = false;
  } else if (tool === "click") {
    leave();
    clickAt(page.view.toCanvas(cursor), !isOther);
  } else if (state.stroke) {
    const { stroke } = state;
    leave();
    act({ kind: "stroke", ...stroke });
  } else {
    state.stroke = { points: [cursor], radii: [page.radius], erases: (tool === "eraser") !== isOther };
    page.shown = { stroke: state.stroke };
  }
  show();
}

/** Takes the cursor away; whether there was one. */
export function leave() {
  const was = page.cursor !== null;
  if (state.box || state.stroke) page.shown = null;
  Object.assign(state, { box: null, stroke: null, hasMoved: false });
  page.cursor = null;
  show();
  return was;
}

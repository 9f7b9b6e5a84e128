// The polygon in the making: corners, then a painting of the draft.

import { act } from "/page/actions.js";
import { page, show } from "/page/page.js";

/** Within this many pixels of the page, a click is on the first corner. */
const CORNER_PX = 9;

/** Adds a corner, or closes the polygon when it is on the first one. `erases` counts with the first corner. */
export function addCorner(xy, erases) {
  const { view } = page;
  page.polygon ??= { corners: [], erases };
  const { corners } = page.polygon;
  if (corners.length > 2) {
    const [a, b] = [view.toCanvas(corners[0]), view.toCanvas(xy)];
    if (Math.hypot(a[0] - b[0], a[1] - b[1]) < CORNER_PX) return closePolygon();
  }
  corners.push(xy);
  show();
}

/** Makes it a part of the draft. */
export function closePolygon() {
  const { polygon } = page;
  if (!polygon || polygon.corners.length < 3) return;
  page.polygon = null;
  act({ kind: "polygon", ...polygon });
  show();
}

/** Takes the last corner back; whether there was one. */
export function undoCorner() {
  if (!page.polygon) return false;
  page.polygon.corners.pop();
  if (page.polygon.corners.length === 0) page.polygon = null;
  show();
  return true;
}

export function dropPolygon() {
  page.polygon = null;
  show();
}

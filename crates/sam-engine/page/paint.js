// What is drawn over the image: masks, proposals, the draft, clicks and boxes, the brush and the cursor of the keyboard.

import { chosen, page } from "/page/page.js";
import { colourOf } from "/page/sprites.js";

const DRAFT_COLOUR = [255, 196, 0];
const PROPOSAL_COLOUR = [236, 240, 244];
const POSITIVE = "#1d8a4a";
const NEGATIVE = "#c0322b";

/** Lines in two tones, which are seen on any ground. */
const SHADE = "rgb(0 0 0 / .6)";

/** Draws over the image; the context is in pixels of the image, of which `pixel` are one of the page. */
export function paint(context, pixel) {
  const { view, sprites } = page;
  const devicePixel = pixel / (window.devicePixelRatio || 1);
  sprites.begin(devicePixel, view.sight());
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "low";
  masks(context, sprites, devicePixel);
  const pen = new Pen(context, pixel);
  const object = chosen();
  if (object) corners(pen, object.shape.box);
  const focused = page.proposals.focused();
  if (focused) corners(pen, focused.shape.box);
  const box = page.shown?.box ?? page.draft.box;
  if (box) pen.twice(3.5, 1.5, (path) => path.rect(box[0], box[1], box[2] - box[0], box[3] - box[1]));
  if (page.shown?.stroke) stroke(context, page.shown.stroke);
  if (page.polygon) polygon(pen);
  for (const point of page.draft.points) click(pen, point);
  if (page.tool === "brush" || page.tool === "eraser") circle(pen);
  if (page.cursor) cross(pen, page.cursor);
  if (sprites.isBehind) view.redraw();
}

function masks(context, sprites, pixel) {
  const { draft, proposals, hover, view } = page;
  if (!page.allHidden) {
    const redraw = () => view.redraw();
    page.layer.draw(context, items(), { sprites, pixel, sight: view.sight(), redraw });
    const object = chosen();
    if (object && draft.revises?.uuid !== object.uuid) sprites.draw(context, object, colourOf(object.colour), "focus");
    const focused = proposals.focused();
    if (focused && focused !== draft.revises) sprites.draw(context, focused, PROPOSAL_COLOUR, "focus");
  }
  if (hover.mask) sprites.draw(context, hover.mask, DRAFT_COLOUR, "hover");
  if (draft.mask) sprites.draw(context, draft.mask, DRAFT_COLOUR, "draft");
}

/** Proposals and masks as they are drawn, but for those that somebody works on. */
function items() {
  const { draft, proposals } = page, focused = proposals.focused();
  const alpha = page.selected === null ? 1 : 0.45, style = page.hasTint ? "mask" : "outline";
  return [
    ...proposals.listed().filter((item) => item !== draft.revises && item !== focused).map((item) => ({ item, colour: PROPOSAL_COLOUR, style: "proposal", alpha: 1 })),
    ...page.masks.filter(({ uuid }) => !page.hidden.has(uuid) && uuid !== draft.revises?.uuid && uuid !== page.selected)
      .map((item) => ({ item, colour: colourOf(item.colour), style, alpha })),
  ];
}

/** Lines as wide as pixels of the page. */
class Pen {
  constructor(context, pixel) {
    Object.assign(this, { context, pixel });
  }

  line(width, colour, draw) {
    const { context, pixel } = this;
    context.lineWidth = width * pixel;
    context.strokeStyle = colour;
    context.beginPath();
    draw(context);
    context.stroke();
  }

  twice(outer, inner, draw) {
    this.line(outer, SHADE, draw);
    this.line(inner, "white", draw);
  }
}

/** The corners of a box: enough to find it, and the outline stays to be seen. */
function corners(pen, { x, y, width, height }) {
  const gap = 4 * pen.pixel;
  const [left, top, right, bottom] = [x - gap, y - gap, x + width + gap, y + height + gap];
  const arm = Math.min(14 * pen.pixel, (right - left) / 3, (bottom - top) / 3);
  pen.twice(3.5, 1.6, (path) => {
    for (const [cx, cy, sx, sy] of [[left, top, 1, 1], [right, top, -1, 1], [right, bottom, -1, -1], [left, bottom, 1, -1]]) {
      path.moveTo(cx + sx * arm, cy); path.lineTo(cx, cy); path.lineTo(cx, cy + sy * arm);
    }
  });
}

function stroke(context, { points, radii, erases }) {
  context.lineCap = context.lineJoin = "round";
  context.strokeStyle = erases ? "rgb(200 40 40 / .45)" : "rgb(255 196 0 / .55)";
  const isEven = radii.every((radius) => radius === radii[0]);
  // One path where it is possible: its parts do not darken each other.
  const parts = isEven ? [points] : points.map((point, index) => [points[Math.max(0, index - 1)], point]);
  parts.forEach((part, index) => {
    context.lineWidth = 2 * radii[index];
    context.beginPath();
    context.moveTo(...part[0]);
    for (const point of part.length > 1 ? part.slice(1) : part) context.lineTo(...point);
    context.stroke();
  });
}

function polygon(pen) {
  const { corners: places, erases } = page.polygon;
  const tip = page.cursor ?? (page.pointer && page.view.toImage(page.pointer.at));
  const trace = (path) => {
    path.moveTo(...places[0]);
    for (const corner of places.slice(1)) path.lineTo(...corner);
    if (tip) path.lineTo(...tip);
  };
  pen.context.beginPath();
  trace(pen.context);
  pen.context.fillStyle = erases ? "rgb(200 40 40 / .2)" : "rgb(255 196 0 / .22)";
  pen.context.fill();
  pen.twice(3.5, 1.5, trace);
  places.forEach(([x, y], index) => {
    const radius = (index === 0 ? 6 : 3.5) * pen.pixel;
    pen.context.beginPath();
    pen.context.arc(x, y, radius, 0, 2 * Math.PI);
    pen.context.fillStyle = erases ? NEGATIVE : POSITIVE;
    pen.context.fill();
    pen.line(1.5, "white", (path) => path.arc(x, y, radius, 0, 2 * Math.PI));
  });
}

function click(pen, { xy: [x, y], positive }) {
  const { context, pixel } = pen;
  context.beginPath();
  context.arc(x, y, 6 * pixel, 0, 2 * Math.PI);
  context.fillStyle = positive ? POSITIVE : NEGATIVE;
  context.fill();
  pen.line(1.5, "white", (path) => path.arc(x, y, 6 * pixel, 0, 2 * Math.PI));
  // A plus or a minus: colour alone says nothing to some.
  pen.line(1.7, "white", (path) => {
    path.moveTo(x - 3 * pixel, y); path.lineTo(x + 3 * pixel, y);
    if (positive) { path.moveTo(x, y - 3 * pixel); path.lineTo(x, y + 3 * pixel); }
  });
}

function circle(pen) {
  const at = page.cursor ?? (page.pointer && page.view.toImage(page.pointer.at));
  if (at) pen.twice(2.5, 1, (path) => path.arc(at[0], at[1], page.radius, 0, 2 * Math.PI));
}

function cross(pen, [x, y]) {
  const arm = 10 * pen.pixel;
  pen.twice(3.5, 1.5, (path) => {
    path.moveTo(x - arm, y); path.lineTo(x + arm, y);
    path.moveTo(x, y - arm); path.lineTo(x, y + arm);
  });
}

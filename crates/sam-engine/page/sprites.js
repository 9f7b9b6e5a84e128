// Masks as small pictures that are drawn over the image.
// A picture has about the resolution of the screen, so 1,000 masks of a 50-megapixel image take a few megabytes, and its outline
// has the same width at every zoom. Pictures of another zoom are made anew within a few milliseconds of each frame; until then
// the old one is drawn.

import { eachSpan } from "/page/runs.js";

/** Cells of a picture; of a larger mask only what is in sight is drawn. */
const MAX_CELLS = 1 << 20;
/** For making pictures, per frame. */
const BUDGET_MS = 7;

/** Opacities of 255, and the width of the outline in device pixels; a shade around it has one. */
const STYLES = {
  mask: { tint: 84, line: 255, shade: 215, width: 1.5 },
  outline: { tint: 0, line: 255, shade: 215, width: 1.5 },
  draft: { tint: 104, line: 255, shade: 235, width: 1.6 },
  proposal: { tint: 30, line: 205, shade: 0, width: 1 },
  focus: { tint: 88, line: 255, shade: 235, width: 2.4 },
  hover: { tint: 46, line: 150, shade: 60, width: 1 },
  alone: { tint: 255, line: 255, shade: 0, width: 1 },
};

/** A colour for the n-th object: neighbours differ by the golden angle. */
export function colourOf(n) {
  return (COLOURS[n] ??= madeColour(n));
}

const COLOURS = [];

function madeColour(n) {
  const hue = (n * 137.508 + 200) % 360, light = n % 2 === 0 ? 0.56 : 0.66;
  const channel = (shift) => {
    const k = (shift + hue / 30) % 12;
    return Math.round(255 * (light - 0.75 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

export const cssColour = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

/** The part of two boxes that is in both; null when there is none. */
function shared(a, b) {
  const [x, y] = [Math.max(a.x, b.x), Math.max(a.y, b.y)];
  const width = Math.min(a.x + a.width, b.x + b.width) - x, height = Math.min(a.y + a.height, b.y + b.height) - y;
  return width > 0 && height > 0 ? { x, y, width, height } : null;
}

const isWithin = (inner, outer) =>
  inner.x >= outer.x && inner.y >= outer.y && inner.x + inner.width <= outer.x + outer.width && inner.y + inner.height <= outer.y + outer.height;

export class Sprites {
  /** Begins a frame. `pixel`: image pixels per device pixel; `sight`: the box of the image that the canvas shows. */
  begin(pixel, sight) {
    // A power of two, so that one picture serves a range of zooms: a cell is at most one device pixel.
    this.cell = 2 ** Math.floor(Math.log2(pixel));
    this.sight = sight;
    this.pixel = pixel;
    this.deadline = performance.now() + BUDGET_MS;
    /** Whether pictures are missing or of another zoom: another frame is needed. */
    this.isBehind = false;
  }

  /** Draws a mask, {shape, sprite}; the context is in pixels of the image. */
  draw(context, item, colour, style) {
    const seen = shared(item.shape.box, this.sight);
    if (!seen || Math.max(seen.width, seen.height) < this.pixel * 0.5) return;
    const old = item.sprite;
    const isGood = old && old.cell === this.cell && old.style === style && old.colour === colour && isWithin(seen, old.region);
    if (!isGood) {
      if (performance.now() < this.deadline) item.sprite = this.make(item.shape, colour, style);
      else this.isBehind = true;
    }
    const { sprite } = item;
    if (sprite) context.drawImage(sprite.canvas, sprite.x, sprite.y, sprite.canvas.width * sprite.cell, sprite.canvas.height * sprite.cell);
  }

  /** The part of a mask's box that its picture has: all of it, or what is in sight and around. */
  regionOf(box) {
    if ((box.width / this.cell) * (box.height / this.cell) <= MAX_CELLS) return box;
    const { x, y, width, height } = this.sight;
    return shared(box, { x: x - width / 4, y: y - height / 4, width: 1.5 * width, height: 1.5 * height });
  }

  make(shape, colour, style) {
    const region = this.regionOf(shape.box);
    return { ...pictureOf(shape, region, this, colour, STYLES[style]), cell: this.cell, style, colour, region };
  }
}

/** The picture of a part of a mask: a tint inside, and an outline in two tones, which is seen on any ground. */
function pictureOf(shape, region, { cell, pixel }, [r, g, b], { tint, line, shade, width: thickness }) {
  const left = Math.floor(region.x / cell), top = Math.floor(region.y / cell);
  const width = Math.ceil((region.x + region.width) / cell) - left, height = Math.ceil((region.y + region.height) / cell) - top;
  const cells = cellsOf(shape, { left, top, width, height }, cell);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  const words = new Uint32Array(picture.data.buffer);
  const word = (factor, alpha) => ((alpha << 24) | ((b * factor) << 16) | ((g * factor) << 8) | (r * factor)) >>> 0;
  const [inside, edge, outer] = [word(1, tint), word(1, line), word(0.25, shade)];
  const isSet = (x, y) => x >= 0 && y >= 0 && x < width && y < height && cells[y * width + x] === 1;
  const outerReach = shade > 0 ? Math.max(1, Math.round(pixel / cell)) : 0;
  const reach = outerReach + Math.max(1, Math.round((thickness * pixel) / cell));
  const isDeep = (x, y, d) => isSet(x - d, y) && isSet(x + d, y) && isSet(x, y - d) && isSet(x, y + d);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      if (cells[at] === 0) continue;
      const isOuter = shade > 0 && !isDeep(x, y, outerReach);
      words[at] = isOuter ? outer : isDeep(x, y, reach) ? inside : edge;
    }
  }
  context.putImageData(picture, 0, 0);
  return { canvas, x: left * cell, y: top * cell };
}

/** Which cells have a pixel of the mask: thin parts are seen at every zoom. */
function cellsOf(shape, { left, top, width, height }, cell) {
  const cells = new Uint8Array(width * height);
  // Of a zoomed image, a pixel has several cells.
  const per = Math.max(1, 1 / cell);
  const [from, to] = [Math.floor(left * cell), Math.ceil((left + width) * cell)];
  eachSpan(shape, from, to, (x, y0, y1) => {
    const column = Math.max(0, Math.floor(x / cell) - left), end = Math.min(width, Math.floor(x / cell) - left + per);
    const first = Math.max(0, Math.floor(y0 / cell) - top), last = Math.min(height, Math.ceil(y1 / cell) - top);
    for (let row = first, at = first * width; row < last; row++, at += width) cells.fill(1, at + column, at + end);
  });
  return cells;
}

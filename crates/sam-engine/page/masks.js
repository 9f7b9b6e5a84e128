// Masks as small pictures that are drawn over the image, and the brush that changes one.

/** Beyond this, a mask is drawn from a part of its pixels. */
const MAX_SPRITE_PIXELS = 4e6;

/** A colour for the n-th object: neighbours differ by the golden angle. */
export function colourOf(n) {
  const hue = (n * 137.508 + 200) % 360, light = n % 2 === 0 ? 0.56 : 0.66;
  const channel = (shift) => {
    const k = (shift + hue / 30) % 12;
    return Math.round(255 * (light - 0.75 * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [channel(0), channel(8), channel(4)];
}

export const cssColour = ([r, g, b]) => `rgb(${r} ${g} ${b})`;

/** The picture of a mask: a tint inside and an outline in two tones, which is seen on any ground. */
export function spriteOf(crop, [r, g, b], thickness) {
  const step = Math.max(1, Math.ceil(Math.sqrt((crop.width * crop.height) / MAX_SPRITE_PIXELS)));
  const [width, height] = [Math.ceil(crop.width / step), Math.ceil(crop.height / step)];
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  const reach = Math.max(1, Math.round((1.7 * thickness) / step)), outer = Math.max(1, Math.floor(reach / 2));
  const isSet = (x, y) => x >= 0 && y >= 0 && x < width && y < height && crop.data[y * step * crop.width + x * step] === 1;
  const isInside = (x, y, d) => isSet(x - d, y) && isSet(x + d, y) && isSet(x, y - d) && isSet(x, y + d);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!isSet(x, y)) continue;
      const at = 4 * (y * width + x);
      let colour = [r, g, b, 96];
      if (!isInside(x, y, reach + outer)) colour = [r, g, b, 255];
      if (!isInside(x, y, outer)) colour = [r * 0.25, g * 0.25, b * 0.25, 230];
      picture.data.set(colour, at);
    }
  }
  context.putImageData(picture, 0, 0);
  return { canvas, crop };
}

/** Draws the picture of a mask; the context is in pixels of the image. */
export function drawSprite(context, { canvas, crop }) {
  context.drawImage(canvas, crop.x, crop.y, crop.width, crop.height);
}

/** Paints a stroke of round ends between its points onto a bitmap, which grows where it must; returns the new bitmap. */
export function painted(crop, stroke, [height, width]) {
  const { points, radius, erases } = stroke;
  const xs = points.map((point) => point[0]), ys = points.map((point) => point[1]);
  let box = [Math.floor(Math.min(...xs) - radius), Math.floor(Math.min(...ys) - radius),
    Math.ceil(Math.max(...xs) + radius), Math.ceil(Math.max(...ys) + radius)];
  box = [Math.max(0, box[0]), Math.max(0, box[1]), Math.min(width, box[2]), Math.min(height, box[3])];
  if (box[2] <= box[0] || box[3] <= box[1]) return crop;
  if (erases && !crop) return null;
  const result = grown(crop, erases ? null : box);
  points.forEach((point, index) => capsule(result, points[Math.max(0, index - 1)], point, radius, erases ? 0 : 1));
  return result;
}

/** A copy of a bitmap that also has room for a box. */
function grown(crop, box) {
  if (!box) return { ...crop, data: crop.data.slice() };
  const [x0, y0] = crop ? [Math.min(crop.x, box[0]), Math.min(crop.y, box[1])] : box;
  const x1 = crop ? Math.max(crop.x + crop.width, box[2]) : box[2];
  const y1 = crop ? Math.max(crop.y + crop.height, box[3]) : box[3];
  const result = { x: x0, y: y0, width: x1 - x0, height: y1 - y0, data: new Uint8Array((x1 - x0) * (y1 - y0)) };
  for (let row = 0; crop && row < crop.height; row++) {
    const from = crop.data.subarray(row * crop.width, (row + 1) * crop.width);
    result.data.set(from, (row + crop.y - y0) * result.width + crop.x - x0);
  }
  return result;
}

/** Sets the pixels whose middle is within a radius of a line between two points. */
function capsule(crop, [ax, ay], [bx, by], radius, value) {
  const [dx, dy] = [bx - ax, by - ay], square = dx * dx + dy * dy;
  const clamp = (from, size, number) => Math.max(0, Math.min(size, number - from));
  const x0 = clamp(crop.x, crop.width, Math.floor(Math.min(ax, bx) - radius));
  const x1 = clamp(crop.x, crop.width, Math.ceil(Math.max(ax, bx) + radius));
  const y0 = clamp(crop.y, crop.height, Math.floor(Math.min(ay, by) - radius));
  const y1 = clamp(crop.y, crop.height, Math.ceil(Math.max(ay, by) + radius));
  for (let y = y0; y < y1; y++) {
    for (let x = x0; x < x1; x++) {
      const [px, py] = [x + crop.x + 0.5 - ax, y + crop.y + 0.5 - ay];
      const t = square > 0 ? Math.max(0, Math.min(1, (px * dx + py * dy) / square)) : 0;
      if ((px - t * dx) ** 2 + (py - t * dy) ** 2 <= radius * radius) crop.data[y * crop.width + x] = value;
    }
  }
}

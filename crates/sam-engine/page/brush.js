// The brush, the eraser and the polygon: what they change in the bitmap of a mask.

/** Paints a stroke or a polygon onto a bitmap, which grows where it must; returns the new bitmap. */
export function painted(crop, painting, [height, width]) {
  const isPolygon = painting.kind === "polygon";
  const points = isPolygon ? painting.corners : painting.points;
  const radius = isPolygon ? 0 : painting.radii.reduce((a, b) => Math.max(a, b));
  const xs = points.map((point) => point[0]), ys = points.map((point) => point[1]);
  const least = (numbers) => numbers.reduce((a, b) => Math.min(a, b)), most = (numbers) => numbers.reduce((a, b) => Math.max(a, b));
  let box = [Math.floor(least(xs) - radius), Math.floor(least(ys) - radius), Math.ceil(most(xs) + radius), Math.ceil(most(ys) + radius)];
  box = [Math.max(0, box[0]), Math.max(0, box[1]), Math.min(width, box[2]), Math.min(height, box[3])];
  if (box[2] <= box[0] || box[3] <= box[1]) return crop;
  if (painting.erases && !crop) return null;
  const result = grown(crop, painting.erases ? null : box);
  const value = painting.erases ? 0 : 1;
  if (isPolygon) fill(result, points, value);
  else points.forEach((point, index) => capsule(result, points[Math.max(0, index - 1)], point, painting.radii[index], value));
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

/** Sets the pixels whose middle is inside of a polygon (even-odd rule). */
function fill(crop, corners, value) {
  for (let row = 0; row < crop.height; row++) {
    const y = row + crop.y + 0.5;
    const crossings = [];
    corners.forEach(([bx, by], index) => {
      const [ax, ay] = corners[(index + corners.length - 1) % corners.length];
      // Each side has its upper end and lacks its lower one, so a corner on the line counts once.
      if (ay <= y !== by <= y) crossings.push(ax + ((y - ay) / (by - ay)) * (bx - ax));
    });
    crossings.sort((a, b) => a - b);
    for (let at = 0; at + 1 < crossings.length; at += 2) {
      const from = Math.max(0, Math.ceil(crossings[at] - 0.5) - crop.x);
      const to = Math.min(crop.width, Math.ceil(crossings[at + 1] - 0.5) - crop.x);
      if (to > from) crop.data.fill(value, row * crop.width + from, row * crop.width + to);
    }
  }
}

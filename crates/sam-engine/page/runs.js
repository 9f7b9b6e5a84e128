// COCO's compressed run lengths; masks as positions where they begin and end; bitmaps of the box of a mask, for the brush.
// Runs are column-major: the pixel at position p of an image of height h is (x, y) = (floor(p / h), p % h).

/** Run lengths of a COCO string: unset, set, unset, .. */
export function decodeRuns(counts) {
  const runs = [];
  let at = 0;
  while (at < counts.length) {
    let value = 0, group = 0, more = true;
    while (more) {
      const bits = counts.charCodeAt(at++) - 48;
      value |= (bits & 0x1f) << (5 * group++);
      more = (bits & 0x20) !== 0;
      if (!more && (bits & 0x10) !== 0) value |= -1 << (5 * group);
    }
    // From the fourth on, the difference to the run before the last is stored.
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/** The COCO string of run lengths. */
export function encodeRuns(runs) {
  const codes = [];
  runs.forEach((run, index) => {
    let value = index > 2 ? run - runs[index - 2] : run;
    let more = true;
    while (more) {
      let bits = value & 0x1f;
      value >>= 5;
      more = (bits & 0x10) !== 0 ? value !== -1 : value !== 0;
      if (more) bits |= 0x20;
      codes.push(String.fromCharCode(bits + 48));
    }
  });
  return codes.join("");
}

/**
 * A mask to look things up in: {height, bounds, box, area}. bounds[0] is the position where the mask begins, bounds[1] where it
 * ends, and so on. A mask without pixels is null. It takes a few kB, whatever the size of the image.
 */
export function shapeOf({ size: [height], counts }) {
  const runs = decodeRuns(counts);
  const bounds = new Uint32Array(runs.length - (runs.length % 2));
  let at = 0, area = 0;
  let [x0, y0, x1, y1] = [Infinity, Infinity, 0, 0];
  for (let index = 0; index < runs.length; index++) {
    if (index % 2 === 1 && runs[index] > 0) {
      const [first, last] = [at, at + runs[index] - 1];
      const [left, right] = [Math.floor(first / height), Math.floor(last / height)];
      area += runs[index];
      x0 = Math.min(x0, left);
      x1 = Math.max(x1, right + 1);
      y0 = left === right ? Math.min(y0, first - left * height) : 0;
      y1 = left === right ? Math.max(y1, last - right * height + 1) : height;
    }
    at += runs[index];
    if (index < bounds.length) bounds[index] = at;
  }
  // bounds[i] was the end of run i: that of an unset run is where the mask begins.
  return area > 0 ? { height, bounds, area, box: { x: x0, y: y0, width: x1 - x0, height: y1 - y0 } } : null;
}

/** How many bounds are at a position or before it: an odd number inside of the mask. */
function boundsUntil(bounds, position) {
  let [low, high] = [0, bounds.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (bounds[middle] <= position) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Calls visit(x, y0, y1) with every vertical span of set pixels in the columns from `left` to before `right`; y1 exclusive. */
export function eachSpan({ height, bounds }, left, right, visit) {
  const end = right * height;
  for (let at = boundsUntil(bounds, left * height) & ~1; at + 1 < bounds.length && bounds[at] < end; at += 2) {
    const to = Math.min(bounds[at + 1], end);
    for (let from = Math.max(bounds[at], left * height); from < to;) {
      const x = Math.floor(from / height), y = from - x * height;
      const length = Math.min(height - y, to - from);
      visit(x, y, y + length);
      from += length;
    }
  }
}

/** Whether a mask has the pixel (x, y) of the image. */
export function covers(shape, x, y) {
  const { box, bounds, height } = shape;
  const [column, row] = [Math.floor(x), Math.floor(y)];
  const isNear = column >= box.x && row >= box.y && column < box.x + box.width && row < box.y + box.height;
  return isNear && boundsUntil(bounds, column * height + row) % 2 === 1;
}

/** The mask as a bitmap of its box: {x, y, width, height, data}. */
export function cropOf(shape) {
  const { x: x0, y: y0, width, height } = shape.box;
  const crop = { x: x0, y: y0, width, height, data: new Uint8Array(width * height) };
  eachSpan(shape, x0, x0 + width, (x, top, bottom) => {
    for (let at = (top - y0) * width + x - x0; top < bottom; top++, at += width) crop.data[at] = 1;
  });
  return crop;
}

/** The mask of a bitmap in an image of this size. */
export function segmentationOf({ x, y, width, height, data }, [imageHeight, imageWidth]) {
  const runs = [];
  let length = x * imageHeight, value = 0;
  for (let column = 0; column < width; column++) {
    length = add(runs, length, value, y, 0);
    if (y > 0) value = 0;
    for (let at = column; at < data.length; at += width) {
      if (data[at] === value) { length++; continue; }
      runs.push(length);
      [length, value] = [1, data[at]];
    }
    const below = imageHeight - y - height;
    length = add(runs, length, value, below, 0);
    if (below > 0) value = 0;
  }
  const right = (imageWidth - x - width) * imageHeight;
  length = add(runs, length, value, right, 0);
  runs.push(length);
  return { size: [imageHeight, imageWidth], counts: encodeRuns(runs) };
}

/** Goes on with `count` pixels of the value `next`; returns the length of the run that they are in. */
function add(runs, length, value, count, next) {
  if (count === 0) return length;
  if (value === next) return length + count;
  runs.push(length);
  return count;
}

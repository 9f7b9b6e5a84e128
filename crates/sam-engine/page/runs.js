// COCO's compressed run lengths, and bitmaps of the part of an image that a mask covers.
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
  let text = "";
  runs.forEach((run, index) => {
    let value = index > 2 ? run - runs[index - 2] : run;
    let more = true;
    while (more) {
      let bits = value & 0x1f;
      value >>= 5;
      more = (bits & 0x10) !== 0 ? value !== -1 : value !== 0;
      if (more) bits |= 0x20;
      text += String.fromCharCode(bits + 48);
    }
  });
  return text;
}

/** Calls visit(x, y0, y1) with every vertical span of set pixels, y1 exclusive. */
function eachSpan(runs, height, visit) {
  let at = 0;
  runs.forEach((run, index) => {
    if (index % 2 === 1) {
      for (let from = at; from < at + run;) {
        const x = Math.floor(from / height), y = from - x * height;
        const length = Math.min(height - y, at + run - from);
        visit(x, y, y + length);
        from += length;
      }
    }
    at += run;
  });
}

/** The set pixels of a mask as a bitmap of its box: {x, y, width, height, data}, or null when it is empty. */
export function cropOf(segmentation) {
  const [height] = segmentation.size;
  const runs = decodeRuns(segmentation.counts);
  let [x0, y0, x1, y1] = [Infinity, Infinity, 0, 0];
  eachSpan(runs, height, (x, top, bottom) => {
    x0 = Math.min(x0, x); x1 = Math.max(x1, x + 1); y0 = Math.min(y0, top); y1 = Math.max(y1, bottom);
  });
  if (x1 <= x0) return null;
  const crop = { x: x0, y: y0, width: x1 - x0, height: y1 - y0, data: new Uint8Array((x1 - x0) * (y1 - y0)) };
  eachSpan(runs, height, (x, top, bottom) => {
    for (let y = top; y < bottom; y++) crop.data[(y - y0) * crop.width + x - x0] = 1;
  });
  return crop;
}

/** The mask of a bitmap in an image of this size. */
export function segmentationOf(crop, [height, width]) {
  const runs = [];
  let length = 0, value = 0;
  const add = (count, next) => {
    if (next === value) { length += count; return; }
    runs.push(length);
    [length, value] = [count, next];
  };
  add(crop.x * height, 0);
  for (let x = 0; x < crop.width; x++) {
    add(crop.y, 0);
    for (let y = 0; y < crop.height; y++) add(1, crop.data[y * crop.width + x]);
    add(height - crop.y - crop.height, 0);
  }
  add((width - crop.x - crop.width) * height, 0);
  runs.push(length);
  return { size: [height, width], counts: encodeRuns(runs) };
}

/** Whether a bitmap has the pixel (x, y) of the image. */
export function covers(crop, x, y) {
  const [column, row] = [Math.floor(x) - crop.x, Math.floor(y) - crop.y];
  return column >= 0 && row >= 0 && column < crop.width && row < crop.height && crop.data[row * crop.width + column] === 1;
}

/** Number of set pixels. */
export function areaOf(crop) {
  return crop.data.reduce((sum, value) => sum + value, 0);
}

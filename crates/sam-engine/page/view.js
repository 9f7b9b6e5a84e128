// The canvas: as large as its place on the page, never as large as the image. Coordinates are pixels of the image.

/** Decoded pictures are kept no larger than this per side; masks and clicks are in the full size anyway. */
const MAX_SIDE = 8192;
/** The largest side of the picture that is shown first. */
const FIRST_SIDE = 2048;
/** The largest side of a picture that is copied once more, to be drawn faster. */
const PLAIN_SIDE = 4096;
const MAX_ZOOM = 40;
/** Room around an object that is brought into sight, in pixels of the page. */
const MARGIN = 60;

export class View {
  /** `paint(context, pixel)` draws over the image; `pixel` is the size of a pixel of the page in pixels of the image. */
  constructor(canvas, paint) {
    Object.assign(this, { canvas, paint, pictures: [], size: [0, 0], scale: 1, x: 0, y: 0, isFitted: true, isAsked: false });
    new ResizeObserver(() => this.resize()).observe(canvas);
    // Another screen or zoom of the page has other device pixels in the same place.
    addEventListener("resize", () => this.resize());
  }

  get picture() {
    return this.pictures[0] ?? null;
  }

  /** Width and height of the canvas on the page. */
  get place() {
    return [this.canvas.clientWidth, this.canvas.clientHeight];
  }

  resize() {
    if (this.isFitted) this.fit();
    // At once: a canvas is empty after it has changed its size.
    this.draw();
  }

  /** Gives the canvas the device pixels of its place; returns how many there are per pixel of the page. */
  adapt() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = this.place.map((side) => Math.max(1, Math.round(side * ratio)));
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    return ratio;
  }

  /** Shows no picture. */
  clear() {
    for (const picture of this.pictures) picture.close();
    Object.assign(this, { pictures: [], size: [0, 0] });
    this.redraw();
  }

  /**
   * Shows a picture, unless `isOld()` once it is decoded. Of a large one, a small picture comes first; then the large one, and
   * halves of it, so that a frame reads no more than it shows.
   */
  async show(blob, isOld) {
    const size = await sizeOf(blob), largest = Math.max(...size);
    const first = await scaled(blob, size, Math.min(1, FIRST_SIDE / largest));
    if (isOld()) return first.close();
    this.clear();
    Object.assign(this, { pictures: [first], size });
    this.fit();
    // Without the memory for more, the small one stays.
    if (largest > FIRST_SIDE) this.sharpen(blob, first).catch(() => {});
  }

  async sharpen(blob, first) {
    const { size } = this, largest = Math.max(...size);
    let side = Math.min(largest, MAX_SIDE);
    const pictures = [await scaled(blob, size, side / largest)];
    for (side /= 2; side > FIRST_SIDE; side /= 2) pictures.push(await scaled(pictures.at(-1), size, side / largest));
    if (this.pictures[0] !== first) return pictures.forEach((picture) => picture.close());
    this.pictures = [...pictures, first];
    this.redraw();
  }

  /** The whole image. */
  fit() {
    const [width, height] = this.place;
    if (!this.picture || width === 0) return;
    const free = height > 260 ? 76 : 0;
    this.scale = Math.max(1e-3, Math.min((width - 24) / this.size[0], (height - 24 - free) / this.size[1]));
    this.x = (width - this.size[0] * this.scale) / 2;
    this.y = (height - free - this.size[1] * this.scale) / 2;
    this.isFitted = true;
    this.redraw();
  }

  zoom(factor, [x, y]) {
    const [width, height] = this.place;
    const smallest = Math.min(width / this.size[0], height / this.size[1], 1) / 2;
    const scale = Math.max(smallest, Math.min(MAX_ZOOM, this.scale * factor));
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    [this.scale, this.isFitted] = [scale, false];
    this.redraw();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.isFitted = false;
    this.redraw();
  }

  /** Brings a box of the image into sight when its middle is not. */
  reveal({ x, y, width, height }) {
    const [right, bottom] = this.place;
    const [px, py] = this.toCanvas([x + width / 2, y + height / 2]);
    const shift = (at, side) => Math.max(MARGIN - at, Math.min(0, side - MARGIN - at));
    const isSeen = px >= 0 && py >= 0 && px <= right && py <= bottom;
    if (!isSeen) this.pan(shift(px, right), shift(py, bottom));
  }

  /** A place on the canvas in pixels of the image. */
  toImage([x, y]) {
    return [(x - this.x) / this.scale, (y - this.y) / this.scale];
  }

  /** A pixel of the image as a place on the canvas. */
  toCanvas([x, y]) {
    return [x * this.scale + this.x, y * this.scale + this.y];
  }

  contains([x, y]) {
    return x >= 0 && y >= 0 && x < this.size[0] && y < this.size[1];
  }

  /** The box of the image that the canvas shows. */
  sight() {
    const [width, height] = this.place;
    return { x: -this.x / this.scale, y: -this.y / this.scale, width: width / this.scale, height: height / this.scale };
  }

  /** Draws with the next frame. */
  redraw() {
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.isAsked = false;
    const context = this.canvas.getContext("2d");
    const ratio = this.adapt();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.picture) return;
    context.setTransform(ratio * this.scale, 0, 0, ratio * this.scale, ratio * this.x, ratio * this.y);
    // The smallest picture with all that the screen can show.
    const enough = this.size[0] * this.scale * ratio * 0.9;
    const picture = this.pictures.findLast(({ width }) => width >= enough) ?? this.picture;
    const shown = picture.width / this.size[0];
    context.imageSmoothingEnabled = this.scale * ratio < 3;
    context.imageSmoothingQuality = "medium";
    this.drawPicture(context, picture, shown);
    this.paint(context, 1 / this.scale);
  }

  /** The part of a picture that is in sight; `shown`: its pixels per pixel of the image. */
  drawPicture(context, picture, shown) {
    const { x, y, width, height } = this.sight();
    const [left, top] = [Math.max(0, Math.floor(x * shown) - 1), Math.max(0, Math.floor(y * shown) - 1)];
    const right = Math.min(picture.width, Math.ceil((x + width) * shown) + 1), bottom = Math.min(picture.height, Math.ceil((y + height) * shown) + 1);
    if (right <= left || bottom <= top) return;
    const [fx, fy] = [this.size[0] / picture.width, this.size[1] / picture.height];
    context.drawImage(picture, left, top, right - left, bottom - top, left * fx, top * fy, (right - left) * fx, (bottom - top) * fy);
  }
}

/** Width and height of a picture, upright, before it is decoded. */
async function sizeOf(blob) {
  const address = URL.createObjectURL(blob);
  try {
    const image = new Image();
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new Error("the browser cannot read it"));
      image.src = address;
    });
    return [image.naturalWidth, image.naturalHeight];
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** A picture at a part of its size. */
async function scaled(source, size, factor) {
  if (factor === 1) return createImageBitmap(source);
  const [resizeWidth, resizeHeight] = size.map((side) => Math.max(1, Math.round(side * factor)));
  const picture = await createImageBitmap(source, { resizeWidth, resizeHeight, resizeQuality: "medium" });
  if (Math.max(resizeWidth, resizeHeight) > PLAIN_SIDE) return picture;
  // Chromium draws a bitmap that was scaled three times as slowly as one that a canvas has given.
  const canvas = new OffscreenCanvas(resizeWidth, resizeHeight);
  canvas.getContext("2d").drawImage(picture, 0, 0);
  picture.close();
  return canvas.transferToImageBitmap();
}

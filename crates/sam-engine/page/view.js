// The canvas: as large as its place on the page, never as large as the image. Coordinates are pixels of the image.

/** Decoded pictures are kept no larger than this per side; masks and clicks are in the full size anyway. */
const MAX_SIDE = 8192;
const MAX_ZOOM = 40;

export class View {
  /** `paint(context, pixel)` draws over the image; `pixel` is the size of a pixel of the page in pixels of the image. */
  constructor(canvas, paint) {
    Object.assign(this, { canvas, paint, picture: null, size: [0, 0], scale: 1, x: 0, y: 0, isFitted: true, isAsked: false });
    new ResizeObserver(() => this.resize()).observe(canvas);
    // Another screen or zoom of the page has other device pixels in the same place.
    addEventListener("resize", () => this.resize());
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

  /** Shows a picture, or none. */
  async show(blob) {
    if (!blob) {
      this.picture?.close();
      [this.picture, this.size] = [null, [0, 0]];
      this.redraw();
      return;
    }
    let picture = await createImageBitmap(blob);
    const size = [picture.width, picture.height];
    const shrink = MAX_SIDE / Math.max(...size);
    if (shrink < 1) {
      const [resizeWidth, resizeHeight] = size.map((side) => Math.max(1, Math.round(side * shrink)));
      const small = await createImageBitmap(picture, { resizeWidth, resizeHeight, resizeQuality: "high" });
      picture.close();
      picture = small;
    }
    this.picture?.close();
    [this.picture, this.size] = [picture, size];
    this.fit();
  }

  /** The whole image. */
  fit() {
    const [width, height] = this.place;
    if (!this.picture || width === 0) return;
    const free = height > 260 ? 84 : 0;
    this.scale = Math.min((width - 24) / this.size[0], (height - 24 - free) / this.size[1]);
    this.scale = Math.max(this.scale, 1e-3);
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
    context.imageSmoothingEnabled = this.scale * ratio < 3;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.picture, 0, 0, ...this.size);
    this.paint(context, 1 / this.scale);
  }
}

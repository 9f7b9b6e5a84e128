// Many masks as one picture, a little larger than the canvas: panning then moves one picture instead of 1,000. A few masks are
// drawn as they are.

/** So many masks are drawn directly. */
const DIRECT = 80;
/** What the picture has beyond the canvas, on each side, as a share of the canvas. */
const MARGIN = 0.25;
/** While somebody zooms, the picture of the scale before is stretched; it is made anew after this pause. */
const SETTLE_MS = 120;

export class Layer {
  constructor() {
    Object.assign(this, { canvas: null, items: [], region: null, scale: 0, isWhole: false, zoomedAt: -Infinity, lastScale: 0, timer: null });
  }

  /** Draws `items`, [{item, colour, style, alpha}]; the context is in pixels of the image, of which `pixel` are one of the device. */
  draw(context, items, { sprites, pixel, sight, redraw }) {
    if (items.length < DIRECT) {
      this.canvas = null;
      drawAll(context, items, sprites);
      return;
    }
    const now = performance.now();
    if (pixel !== this.lastScale) Object.assign(this, { lastScale: pixel, zoomedAt: now });
    const isSame = this.canvas !== null && this.isWhole && isEqual(items, this.items) && isWithin(sight, this.region);
    const isSharp = this.scale === pixel;
    const isZooming = now - this.zoomedAt < SETTLE_MS;
    if (!isSame || (!isSharp && !isZooming)) this.make(items, sprites, pixel, sight);
    else if (!isSharp) {
      clearTimeout(this.timer);
      this.timer = setTimeout(redraw, SETTLE_MS);
    }
    const { region } = this;
    context.drawImage(this.canvas, region.x, region.y, region.width, region.height);
  }

  make(items, sprites, pixel, sight) {
    // In whole device pixels, so that the picture lies on those of the canvas and is as sharp.
    const [mx, my] = [Math.ceil((sight.width * MARGIN) / pixel) * pixel, Math.ceil((sight.height * MARGIN) / pixel) * pixel];
    const width = Math.round((sight.width + 2 * mx) / pixel), height = Math.round((sight.height + 2 * my) / pixel);
    if (this.canvas?.width !== width || this.canvas.height !== height) this.canvas = new OffscreenCanvas(width, height);
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, width, height);
    const region = { x: sight.x - mx, y: sight.y - my, width: width * pixel, height: height * pixel };
    context.setTransform(1 / pixel, 0, 0, 1 / pixel, -region.x / pixel, -region.y / pixel);
    sprites.begin(pixel, region);
    drawAll(context, items, sprites);
    const isWhole = !sprites.isBehind;
    sprites.begin(pixel, sight);
    sprites.isBehind = !isWhole;
    Object.assign(this, { items, region, scale: pixel, isWhole });
  }
}

function drawAll(context, items, sprites) {
  for (const { item, colour, style, alpha } of items) {
    context.globalAlpha = alpha;
    sprites.draw(context, item, colour, style);
  }
  context.globalAlpha = 1;
}

const isEqual = (items, others) => items.length === others.length && items.every(({ item, colour, style, alpha }, index) => {
  const other = others[index];
  return item.shape === other.item.shape && colour === other.colour && style === other.style && alpha === other.alpha;
});

const isWithin = (inner, outer) =>
  inner.x >= outer.x && inner.y >= outer.y && inner.x + inner.width <= outer.x + outer.width && inner.y + inner.height <= outer.y + outer.height;

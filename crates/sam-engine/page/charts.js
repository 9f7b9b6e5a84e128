// Small charts by round, as SVG: values with their intervals, one colour and one mark per series.

const SPACE = "http://www.w3.org/2000/svg";
const SIZE = { width: 320, height: 170, left: 42, right: 12, top: 14, bottom: 26 };
const TICKS = 4;

function node(name, attributes, ...children) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Round steps between two numbers. */
function ticksOf(low, high) {
  const raw = (high - low) / TICKS || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= raw);
  const ticks = [];
  for (let at = Math.floor(low / step); at * step < high + step * 0.999; at++) ticks.push(at * step);
  return { ticks, step };
}

/**
 * A chart of `series`: [{name, mark: "a" | "b", points: [{x, value, low, high}]}], x a round. `write(value)` is its unit.
 * A table with the numbers is beside it, so to a screen reader the chart is one picture with a name.
 */
export function chart({ title, series, write, isFromZero }) {
  const points = series.flatMap((one) => one.points);
  const { width, height, left, right, top, bottom } = SIZE;
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = title;
  figure.append(caption);
  if (points.length === 0) {
    const empty = document.createElement("p");
    empty.className = "soft";
    empty.textContent = "Nothing measured yet";
    figure.append(empty);
    return figure;
  }
  const all = points.flatMap(({ value, low = value, high = value }) => [value, low, high]);
  const { ticks, step } = ticksOf(isFromZero ? 0 : Math.min(...all), Math.max(...all));
  const [first, last] = [ticks[0], ticks.at(-1) > ticks[0] ? ticks.at(-1) : ticks[0] + step];
  const rounds = [...new Set(points.map(({ x }) => x))].sort((a, b) => a - b);
  const span = Math.max(1, rounds.at(-1) - rounds[0]);
  const px = (x) => (rounds.length === 1 ? (left + width - right) / 2 : left + 14 + ((x - rounds[0]) / span) * (width - left - right - 28));
  const py = (value) => height - bottom - ((value - first) / (last - first)) * (height - top - bottom);
  const svg = node("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title, class: "chart" });
  for (const tick of ticks) {
    svg.append(node("line", { x1: left, x2: width - right, y1: py(tick), y2: py(tick), class: "grid" }),
      node("text", { x: left - 6, y: py(tick) + 4, "text-anchor": "end" }, write(tick)));
  }
  const every = Math.ceil(rounds.length / 10);
  rounds.filter((_, at) => at % every === 0).forEach((round) => svg.append(node("text", { x: px(round), y: height - 8, "text-anchor": "middle" }, String(round))));
  series.forEach(({ name, mark, points: own }, index) => svg.append(...drawn(own, { name, mark, shift: 6 * (index - (series.length - 1) / 2), px, py, write })));
  figure.append(svg);
  if (series.length > 1) figure.append(legend(series));
  return figure;
}

function drawn(points, { name, mark, shift, px, py, write }) {
  const at = ({ x, value }) => `${(px(x) + shift).toFixed(1)},${py(value).toFixed(1)}`;
  const parts = [node("polyline", { points: points.map(at).join(" "), class: `line ${mark}` })];
  for (const point of points) {
    const [x, y] = [px(point.x) + shift, py(point.value)];
    if (point.low !== undefined) parts.push(node("line", { x1: x, x2: x, y1: py(point.low), y2: py(point.high), class: `whisker ${mark}` }));
    const text = `${name}, round ${point.x}: ${write(point.value)}`;
    const shape = mark === "a" ? node("circle", { cx: x, cy: y, r: 4, class: `mark ${mark}` }) : node("rect", { x: x - 4, y: y - 4, width: 8, height: 8, class: `mark ${mark}` });
    shape.append(node("title", {}, text));
    parts.push(shape);
  }
  return parts;
}

function legend(series) {
  const list = document.createElement("p");
  list.className = "legend";
  for (const { name, mark } of series) {
    const item = document.createElement("span");
    const svg = node("svg", { viewBox: "0 0 10 10", width: 10, height: 10, "aria-hidden": "true" },
      mark === "a" ? node("circle", { cx: 5, cy: 5, r: 4, class: `mark ${mark}` }) : node("rect", { x: 1, y: 1, width: 8, height: 8, class: `mark ${mark}` }));
    item.append(svg, ` ${name}`);
    list.append(item);
  }
  return list;
}

// The lists beside the image. Names are text, never markup.

import { colourOf, cssColour } from "/page/masks.js";

/** Rows that exist at once; of more, those around the current image. */
const MAX_ROWS = 300;

const STATES = { todo: "to do", open: "open", done: "done", skipped: "skipped" };

export function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** The images that match the search and the filter, with the current one in sight. */
export function showImages({ list, counts, images, current, search, filter, onOpen }) {
  const wanted = search.toLowerCase();
  const found = images.map((image, index) => ({ image, index }))
    .filter(({ image }) => (!filter || image.state === filter) && image.name.toLowerCase().includes(wanted));
  const at = Math.max(0, found.findIndex(({ index }) => index === current));
  const first = Math.max(0, Math.min(at - MAX_ROWS / 2, found.length - MAX_ROWS));
  const rows = found.slice(first, first + MAX_ROWS).map(({ image, index }) => {
    const row = element("li", { tabIndex: 0, title: `${image.name}: ${STATES[image.state]}` },
      element("span", { className: `dot ${image.state}`, role: "img", "aria-label": STATES[image.state] }),
      element("span", { className: "label", textContent: image.name }),
      element("span", { className: "number", textContent: image.masks || "" }));
    if (index === current) row.setAttribute("aria-current", "true");
    row.onclick = () => onOpen(index);
    row.onkeydown = (event) => { if (event.key === "Enter") onOpen(index); };
    return row;
  });
  const more = (count, where) => (count > 0 ? [element("li", { className: "more", textContent: `${count} more ${where}` })] : []);
  list.replaceChildren(...more(first, "above"), ...rows, ...more(found.length - first - rows.length, "below"));
  list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  const done = images.filter(({ state }) => state === "done" || state === "skipped").length;
  counts.textContent = `${done} of ${images.length} done` + (found.length < images.length ? `, ${found.length} listed` : "");
}

/** The objects of the image. */
export function showObjects({ list, masks, classes, hidden, selected, onSelect, onHide, onDelete, onClass }) {
  const rows = masks.map((mask, n) => {
    const away = hidden.has(mask.uuid);
    const name = mask.class ?? `Object ${n + 1}`;
    let label = element("span", { className: "label", textContent: name });
    if (classes.length > 0) {
      const choices = ["", ...classes].map((value) =>
        element("option", { value, textContent: value || "no class", selected: value === (mask.class ?? "") }));
      const select = element("select", { "aria-label": `Class of object ${n + 1}` }, ...choices);
      select.onchange = () => onClass(mask, select.value || null);
      select.onclick = (event) => event.stopPropagation();
      label = element("span", { className: "label" }, select);
    }
    const button = (text, name, action) => {
      const node = element("button", { type: "button", textContent: text, title: name, "aria-label": name });
      node.onclick = (event) => { event.stopPropagation(); action(); };
      return node;
    };
    const swatch = element("span", { className: "swatch" });
    swatch.style.background = cssColour(colourOf(mask.colour));
    const row = element("li", { role: "option", className: away ? "away" : "" }, swatch, label,
      element("span", { className: "number", title: "pixels", textContent: mask.area.toLocaleString() }),
      button(away ? "○" : "●", away ? `Show object ${n + 1}` : `Hide object ${n + 1}`, () => onHide(mask)),
      button("✕", `Delete object ${n + 1}`, () => onDelete(mask)));
    row.setAttribute("aria-selected", String(mask.uuid === selected));
    row.dataset.uuid = mask.uuid;
    row.onclick = () => onSelect(mask.uuid === selected ? null : mask.uuid);
    return row;
  });
  list.replaceChildren(...rows);
}

// Opening an image: its pixels, its masks, and the encoder that works on it.

import { $, image, page, say, show, write } from "/page/page.js";
import { local, place } from "/page/operations.js";
import { get, post } from "/page/server.js";

const READINESS_MS = 400;
/** Images that are encoded ahead. */
const FORWARD = 2;

/** Goes to an image of the list. */
export async function open(index) {
  const { images } = page.project;
  if (index < 0 || index >= images.length) return;
  if (!page.draft.isEmpty && !confirm("The mask in the making is not committed. Drop it?")) return;
  const { id, name } = images[index];
  Object.assign(page, { index, masks: [], rejected: [], note: "", isValidation: false, revision: 0, selected: null, shown: null });
  Object.assign(page, { cursor: null, polygon: null, problem: "", news: "", nextColour: 0, wantsCommit: false, isListStale: true });
  page.hidden.clear();
  page.readiness = { state: "waiting" };
  page.draft.begin(id, null);
  page.hover.drop();
  page.view.clear();
  page.proposals.begin();
  history.replaceState(null, "", `#${encodeURIComponent(name)}`);
  write($("name"), name);
  $("name").title = name;
  show();
  const next = images.slice(index + 1, index + 1 + FORWARD).map((other) => other.id);
  const isOld = () => image().id !== id;
  try {
    const [readiness, response] = await Promise.all([
      post("/api/look-at", { image: id, next }), fetch(`/api/images/${id}/pixels`), load()]);
    if (isOld()) return;
    if (!response.ok) throw new Error((await response.json()).error);
    page.readiness = readiness;
    const blob = await response.blob();
    await page.view.show(blob, isOld);
    if (isOld()) return;
    const [width, height] = page.view.size;
    page.draft.begin(id, [height, width]);
    watch();
  } catch (error) {
    if (!isOld()) say(`This image cannot be shown: ${error.message}`, true);
  }
}

/** The masks of the image as they are on disk, with what is still on its way. */
export async function load() {
  const { id } = image();
  const { revision, state, masks, note = "", rejected = [], is_validation: isValidation = false } = await get(`/api/images/${id}`);
  if (image().id !== id) return;
  const before = new Map(page.masks.map((mask) => [mask.uuid, mask]));
  page.masks = [];
  for (const mask of masks) {
    // What was there keeps its colour, and its picture while it is the same.
    const old = before.get(mask.uuid);
    if (old) page.masks.push(old);
    place(mask, old ? page.masks.length - 1 : undefined);
  }
  Object.assign(page, { revision, note, rejected, isValidation, isListStale: true });
  image().state = state;
  image().masks = page.masks.length;
  for (const { operation } of page.outbox.waiting.filter(({ operation }) => operation.image === id)) local(operation.change);
  if (page.selected && !page.masks.some(({ uuid }) => uuid === page.selected)) page.selected = null;
  show();
}

/** Follows the encoder while it works on the image. */
export async function watch() {
  const { id } = image();
  while (image().id === id && !["ready", "failed"].includes(page.readiness.state)) {
    show();
    await new Promise((resolve) => setTimeout(resolve, READINESS_MS));
    if (document.hidden) continue;
    const readiness = await get(`/api/images/${id}/readiness`).catch(() => page.readiness);
    if (image().id === id) page.readiness = readiness;
  }
  if (image().id === id) page.hover.follow();
  show();
}

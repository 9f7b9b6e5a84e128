// The model's proposals for an image: masks that nobody has made yet, surest first. One is looked at after the other and
// accepted, rejected or corrected.

import { objectAt } from "/page/actions.js";
import { change, sent } from "/page/operations.js";
import { $, image, keepSetting, page, setting, show, write } from "/page/page.js";
import { covers, shapeOf } from "/page/runs.js";
import { get, post } from "/page/server.js";

const POLL_MS = 700;
/** After a change, the server is asked once what is left. */
const REFRESH_MS = 300;
/** Looking at a proposal counts no longer than this. */
const LONGEST_LOOK_S = 30;

export class Proposals {
  constructor() {
    Object.assign(this, { isOn: setting("proposals", false), threshold: setting("threshold", 0.88) });
    this.clear();
  }

  clear() {
    Object.assign(this, { state: "absent", fraction: 0, message: "", model: null, all: [], chosen: null, since: 0, timer: null });
  }

  /** Another image. */
  begin() {
    clearTimeout(this.timer);
    this.clear();
    if (this.isOn) this.ask();
  }

  toggle() {
    this.isOn = !this.isOn;
    keepSetting("proposals", this.isOn);
    if (this.isOn) this.ask();
    else this.focus(null);
    page.hover.follow();
    show();
  }

  /** Asks for what is there, and follows the work on it. */
  async ask() {
    clearTimeout(this.timer);
    const { id } = image();
    const path = `/api/images/${id}/proposals`;
    let answer;
    try {
      answer = await get(path);
      if (answer.state === "absent") {
        await post(path, {});
        answer = await get(path);
      }
    } catch (error) {
      answer = { state: "failed", message: error.status ? error.message : "The server does not answer", masks: [] };
    }
    if (!this.isOn || image().id !== id) return;
    const before = new Map(this.all.map((item) => [item.uuid, item]));
    const { state, fraction = 0, message = "", model = null, masks = [] } = answer;
    const items = masks.map((mask) => before.get(mask.uuid) ?? { ...mask, isProposal: true, model, shape: shapeOf(mask.segmentation), sprite: null });
    Object.assign(this, { state, fraction, message, model, all: items.filter(({ shape }) => shape !== null) });
    if (state === "waiting" || state === "working" || state === "absent") this.timer = setTimeout(() => this.ask(), POLL_MS);
    show();
  }

  /** The masks have changed: proposals that overlap them go, or come back. */
  refresh() {
    if (!this.isOn) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), REFRESH_MS);
  }

  /** Those that are still open, whatever their confidence. */
  open() {
    if (!this.isOn) return [];
    const gone = new Set([...page.masks, ...page.rejected].map(({ uuid }) => uuid));
    return this.all.filter(({ uuid }) => !gone.has(uuid));
  }

  /** Those above the threshold. */
  listed() {
    return this.open().filter((item) => item.predicted_iou >= this.threshold);
  }

  /** The one that is looked at; null when there is none. */
  focused() {
    return this.chosen === null || !this.isOn ? null : this.listed().find(({ uuid }) => uuid === this.chosen) ?? null;
  }

  focus(uuid) {
    if (this.chosen !== uuid) this.since = performance.now() / 1000;
    this.chosen = uuid;
    if (uuid !== null) page.selected = null;
    const item = this.focused();
    if (item) page.view.reveal(item.shape.box);
    page.hover.follow();
    show();
  }

  /** The next one, or the one before, as the list has them. */
  step(by) {
    const items = this.listed();
    if (items.length === 0 || !page.draft.isEmpty) return;
    const at = items.findIndex(({ uuid }) => uuid === this.chosen);
    const next = at < 0 ? (by > 0 ? 0 : items.length - 1) : (at + by + items.length) % items.length;
    this.focus(items[next].uuid);
  }

  /** Whether a click chooses a proposal. Far from the chosen one, it begins a new object. */
  meets({ xy: [x, y], positive }) {
    const focused = this.focused();
    if (focused && (!positive || covers(focused.shape, x, y))) return false;
    const there = objectAt(x, y, this.listed());
    if (there && positive) {
      this.focus(there.uuid);
      return true;
    }
    if (focused) {
      const { box } = focused.shape;
      const isNear = x > box.x - box.width / 4 && y > box.y - box.height / 4 && x < box.x + box.width * 1.25 && y < box.y + box.height * 1.25;
      if (!isNear) this.focus(null);
    }
    return false;
  }

  /** Carries out what is done with the chosen one, and goes on with the next. */
  settle(what) {
    const item = this.focused();
    if (!item) return this.step(1);
    if (!page.draft.isEmpty) return;
    const items = this.listed(), at = items.indexOf(item);
    what(item);
    const next = items[at + 1] ?? items[at - 1] ?? null;
    this.focus(next?.uuid ?? null);
  }

  accept() {
    const seconds = Math.min(LONGEST_LOOK_S, performance.now() / 1000 - this.since);
    this.settle((item) => change({ kind: "add", mask: accepted(item, seconds) }));
  }

  reject() {
    this.settle(({ uuid, segmentation }) => change({ kind: "reject", mask: { uuid, segmentation } }));
  }

  /** Accepts all that are above the threshold; one undo takes them all back. */
  acceptAll() {
    if (!page.draft.isEmpty) return;
    const group = crypto.randomUUID();
    for (const item of this.listed()) change({ kind: "add", mask: accepted(item, 0) }, { group });
    this.focus(null);
  }
}

function accepted({ uuid, segmentation, predicted_iou, model }, seconds) {
  const prompts = { points: [], box: null, strokes: 0 };
  const name = $("class").value || null;
  return sent({ uuid, segmentation, source: "accepted", class: name, prompts, seconds: Math.round(seconds * 100) / 100, predicted_iou, model });
}

/** The panel, once. */
export function listenToProposals() {
  const { proposals } = page;
  $("proposals-toggle").onclick = () => proposals.toggle();
  $("threshold").oninput = () => {
    proposals.threshold = Number($("threshold").value);
    keepSetting("threshold", proposals.threshold);
    show();
  };
  const buttons = { accept: () => proposals.accept(), reject: () => proposals.reject(), "accept-all": () => proposals.acceptAll(),
    "proposal-before": () => proposals.step(-1), "proposal-after": () => proposals.step(1) };
  for (const [id, action] of Object.entries(buttons)) $(id).onclick = action;
  $("proposal").onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    proposals.step(step);
  };
}

/** Brings the panel up to date. */
export function showProposals() {
  const { proposals, draft } = page;
  const { isOn, state } = proposals;
  $("proposals-toggle").setAttribute("aria-pressed", String(isOn));
  $("proposals").hidden = !isOn;
  if (!isOn) return;
  const isReady = state === "ready", open = proposals.open(), listed = proposals.listed(), focused = proposals.focused();
  const at = listed.indexOf(focused);
  $("proposals-work").hidden = isReady;
  $("proposals-done").hidden = !isReady;
  $("proposals-bar").value = proposals.fraction ?? 0;
  $("proposals-bar").hidden = state === "failed";
  const texts = { absent: "Starting", waiting: "Waiting for the encoder", working: `Looking for objects, ${Math.round(100 * (proposals.fraction ?? 0))} %`, failed: proposals.message };
  write($("proposals-state"), texts[state] ?? "");
  write($("proposals-count"), `${listed.length} of ${open.length}`);
  $("threshold").value = proposals.threshold;
  $("threshold").setAttribute("aria-valuetext", `${proposals.threshold.toFixed(2)}, ${listed.length} of ${open.length} proposals`);
  write($("threshold-value"), proposals.threshold.toFixed(2));
  const what = focused ? `${at + 1} of ${listed.length} · ${focused.predicted_iou.toFixed(2)}` : "";
  write($("proposal"), what || (listed.length > 0 ? "None chosen" : open.length > 0 ? "None above the threshold" : "None left"));
  for (const id of ["accept", "reject"]) $(id).disabled = !focused || !draft.isEmpty;
  for (const id of ["proposal-before", "proposal-after"]) $(id).disabled = listed.length === 0 || !draft.isEmpty;
  $("accept-all").disabled = listed.length === 0 || !draft.isEmpty;
  write($("accept-all-count"), String(listed.length));
}

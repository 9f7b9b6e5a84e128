// The page: its parts joined, and the way between its three places: the image, the rounds, the review.

import { act, commit, drop, hideAll, objectAt, redo, setTool, undo } from "/page/actions.js";
import { listenToClasses } from "/page/classes.js";
import { Draft } from "/page/draft.js";
import { listenToHelp } from "/page/help.js";
import { History } from "/page/history.js";
import { Hover } from "/page/hover.js";
import { open } from "/page/images.js";
import { listenToKeys } from "/page/keys.js";
import { Layer } from "/page/layer.js";
import { listenToLists, showImages, showObjects } from "/page/lists.js";
import { onApplied, onRefused } from "/page/operations.js";
import { $, page, say, setting, show, shows } from "/page/page.js";
import { paint } from "/page/paint.js";
import { Pointer } from "/page/pointer.js";
import { listenToProposals, Proposals, showProposals } from "/page/proposals.js";
import { startPulse } from "/page/pulse.js";
import { Review } from "/page/review.js";
import { Rounds } from "/page/rounds.js";
import { get, Outbox, Refused } from "/page/server.js";
import { Sprites } from "/page/sprites.js";
import { listenToText, showText } from "/page/text.js";
import { listenToTools, showMessage, showSaved, showTools } from "/page/toolbar.js";
import { View } from "/page/view.js";

export { act, objectAt, page };

const RETRY_MS = 1000;
const PLACES = ["image", "rounds", "review"];

page.place = "image";
page.hasTint = setting("tint", true);
page.sprites = new Sprites();
page.layer = new Layer();
page.proposals = new Proposals();
page.hover = new Hover();
page.view = new View($("canvas"), paint);
page.draft = new Draft({ onChange: drafted, onMessage: failed });
page.rounds = new Rounds();
page.review = new Review(goTo);
new Pointer($("canvas"));
for (const part of [showTools, showText, showImages, showObjects, showProposals, showMessage]) shows(part);

/** The draft has changed. A commit that came before its answer follows it. */
function drafted() {
  // A draft is cleared once while it is made.
  if (!page.draft) return;
  if (page.wantsCommit && !page.draft.isAsking) {
    page.wantsCommit = false;
    if (page.draft.mask) commit();
  }
  page.hover.follow();
  show();
}

/** A prompt had no answer: the masks that are shown are not its own, so a commit that waits for it is off. */
function failed(message, isBad) {
  page.wantsCommit = false;
  say(message, isBad);
}

/** Goes to one of the three places. */
async function goTo(place) {
  page.place = place;
  for (const other of PLACES) {
    $(`${other}-place`).hidden = other !== place;
    if (other === place) $(`to-${other}`).setAttribute("aria-current", "page");
    else $(`to-${other}`).removeAttribute("aria-current");
  }
  $("image-header").hidden = place !== "image";
  const name = page.project.images[page.index]?.name ?? "";
  history.replaceState(null, "", place === "image" ? `#${encodeURIComponent(name)}` : `#${place}`);
  if (place === "image") {
    page.view.resize();
    $("canvas").focus({ preventScroll: true });
  }
  show();
  if (place === "rounds") await page.rounds.enter();
  if (place === "review" && page.review.correcting === null) await page.review.enter();
}

/** The project; while the server does not answer, it is asked again. */
async function project() {
  for (;;) {
    try {
      return await get("/api/project");
    } catch (error) {
      if (error instanceof Refused) throw error;
      $("message").textContent = "No connection to the server; trying again";
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

async function start() {
  page.project = await project();
  const { name, images, key } = page.project;
  $("project").textContent = name;
  document.title = `${name} – sam-train annotate`;
  page.history = new History(key);
  page.outbox = new Outbox(key, { onChange: showSaved, onApplied, onRefused });
  listenToClasses();
  listenToHelp();
  listenToKeys();
  listenToLists();
  listenToProposals();
  listenToText();
  listenToTools();
  for (const place of PLACES) $(`to-${place}`).onclick = (event) => { event.preventDefault(); goTo(place); };
  const kept = decodeURIComponent(location.hash.slice(1));
  const at = images.findIndex((other) => other.name === kept);
  const todo = images.findIndex(({ state }) => state === "todo" || state === "open");
  const opened = open(at >= 0 ? at : Math.max(0, todo));
  if (at < 0 && PLACES.includes(kept)) goTo(kept);
  await opened;
  if (page.place !== "image") history.replaceState(null, "", `#${page.place}`);
  startPulse();
}

const buttons = {
  previous: () => open(page.index - 1), next: () => open(page.index + 1), undo, redo, drop, commit, fit: () => page.view.fit(), hover: () => page.hover.toggle(),
  "hide-all": hideAll, "tool-click": () => setTool("click"), "tool-brush": () => setTool("brush"), "tool-eraser": () => setTool("eraser"), "tool-polygon": () => setTool("polygon"),
};
for (const [id, action] of Object.entries(buttons)) $(id).onclick = action;
// On a phone, one list at a time.
for (const name of ["images", "objects"]) {
  $(`sheet-${name}`).onclick = () => {
    document.body.dataset.sheet = name;
    for (const other of ["images", "objects"]) $(`sheet-${other}`).setAttribute("aria-pressed", String(other === name));
  };
}

start().catch((error) => { $("message").classList.add("bad"); $("message").textContent = `The project cannot be opened: ${error.message}`; });

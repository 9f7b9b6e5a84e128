// The buttons around the image, the masks to choose among, the message line and the note.

import { isUnseen, toggleState, writeNote } from "/page/actions.js";
import { $, chosen, element, image, page, sentence, write } from "/page/page.js";
import { quoted } from "/page/text.js";

const TOOLS = ["click", "brush", "eraser", "polygon"];

/** Which of the three masks of a click; what they were made of last. */
let shownCandidates = null;

export function showTools() {
  const { draft, tool } = page;
  for (const name of TOOLS) $(`tool-${name}`).setAttribute("aria-pressed", String(tool === name));
  $("canvas").classList.toggle("brush", tool === "brush" || tool === "eraser");
  const { undo, redo } = page.history.of(image().id);
  $("undo").disabled = draft.isEmpty && undo.length === 0 && !page.polygon;
  $("redo").disabled = draft.undone.length === 0 && redo.length === 0;
  $("drop").disabled = draft.isEmpty && page.selected === null && !page.polygon;
  $("commit").disabled = !draft.mask && !draft.isAsking;
  $("sign").setAttribute("aria-pressed", String(page.isOther));
  $("hover").setAttribute("aria-pressed", String(page.hover.isOn));
  $("done").setAttribute("aria-pressed", String(image().state === "done"));
  $("skip").setAttribute("aria-pressed", String(image().state === "skipped"));
  $("previous").disabled = page.index === 0;
  $("next").disabled = page.index === page.project.images.length - 1;
  $("validation").hidden = !page.isValidation;
  showChoices();
  showNote();
}

function showChoices() {
  const { draft } = page, node = $("choices");
  const { candidates, choice } = draft;
  node.hidden = candidates.length < 2;
  if (node.hidden) { shownCandidates = null; return; }
  if (shownCandidates !== candidates) {
    shownCandidates = candidates;
    node.replaceChildren(...candidates.map(({ predicted_iou }, index) => {
      const button = element("button", { type: "button", title: `Mask ${index + 1}, predicted IoU ${predicted_iou.toFixed(2)}` },
        String(index + 1), element("span", { className: "score", textContent: predicted_iou.toFixed(2) }));
      button.setAttribute("aria-label", button.title);
      button.onclick = () => draft.choose(index);
      return button;
    }));
  }
  [...node.children].forEach((button, index) => button.setAttribute("aria-pressed", String(index === choice)));
}

function showNote() {
  const field = $("note");
  if (document.activeElement !== field || field.dataset.image !== image().id) {
    field.dataset.image = image().id;
    if (field.value !== page.note) field.value = page.note;
  }
}

/** The message line: an error, what the encoder does, what comes next. */
export function showMessage() {
  const { draft, readiness } = page;
  const error = page.problem || (readiness.state === "failed" ? readiness.message : "");
  $("message").classList.toggle("bad", error !== "");
  write($("message"), sentence(error) || page.news || messageOf(draft, readiness));
}

function messageOf(draft, readiness) {
  const candidate = draft.candidates[draft.choice];
  if (readiness.state === "encoding") return `Encoding the image, ${Math.round(readiness.seconds)} s; clicks are answered then`;
  if (readiness.state === "waiting" && draft.isAsking) return "Waiting for the encoder";
  if (page.wantsCommit) return "Commits with the answer";
  if (page.polygon) return page.polygon.corners.length < 3 ? "Polygon: click the corners" : "Enter or a click on the first corner closes the polygon";
  const said = draft.text === null ? "" : `${quoted(draft.text)}: `;
  if (draft.mask && candidate) return `${said}${said ? "p" : "P"}redicted IoU ${candidate.predicted_iou.toFixed(2)}; Enter commits`;
  if (draft.mask && !draft.isAsking) return draft.revises ? "Enter commits the change" : "Enter commits";
  if (candidate && !draft.isAsking) return `${said}${said ? "t" : "T"}he model finds nothing${said ? "" : " here"}; try another click or a box`;
  if (page.review.correcting) return "Correct this mask, then commit";
  if (chosen()) return `${nameOf(chosen())} is chosen: clicks and strokes change it;${isUnseen(chosen()) ? " Y accepts it;" : ""} Esc leaves it`;
  const focused = page.proposals.focused();
  if (focused) return "A accepts, R rejects, a click corrects";
  return "";
}

const nameOf = (mask) => mask.class ?? `Object ${page.masks.indexOf(mask) + 1}`;

/** How far the saving is. */
export function showSaved(state, count, problem) {
  const text = { failing: `${count} unsaved: the server cannot save`, saved: "All saved", saving: `Saving ${count}`, offline: count > 0 ? `${count} unsaved: no connection` : "No connection" };
  $("saved").dataset.state = state;
  $("saved").title = problem;
  write($("saved"), text[state]);
}

export function listenToTools() {
  $("done").onclick = () => toggleState("done");
  $("sign").onclick = () => { page.isOther = !page.isOther; showTools(); };
  $("skip").onclick = () => toggleState("skipped");
  const field = $("note");
  // Saved when the field is left, and after a pause.
  let timer = null;
  const save = () => {
    clearTimeout(timer);
    if (field.dataset.image === image()?.id) writeNote(field.value.trim());
  };
  field.onchange = save;
  field.oninput = () => { clearTimeout(timer); timer = setTimeout(save, 1500); };
  field.onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); $("canvas").focus(); }
  };
}

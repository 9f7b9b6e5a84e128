// The dialog of `?`: every key, and another key for what one likes to have elsewhere. The keys on the buttons follow.

import { ACTIONS, bind, boundKey, keyOf, resetKeys, shownKey } from "/page/keys.js";
import { $, element, write } from "/page/page.js";

/** What has no key to change. */
const GESTURES = [
  ["Click", "On the object"], ["Right or ⇧ click", "Not on the object"], ["Drag", "A box around it"], ["Click a point", "Removes it"],
  ["Alt click", "Chooses an object"], ["↵", "Commits; closes a polygon"], ["Esc", "Leaves what is in the making"],
  ["Tab", "Next of three masks, next proposal"], ["1 2 3", "Which of three masks"], ["1 … 9, 0", "Class of the chosen object, or of new ones; two digits beyond 9"],
  ["Ctrl Z, Ctrl ⇧Z", "Undo, redo"], ["Backspace", "Takes the last corner back"], ["Page ↓ ↑", "Next, previous image"],
  ["Wheel, pinch", "Zooms"], ["Space or middle drag", "Pans"], ["Arrows, ↵", "A cursor that clicks, paints and sets corners without a mouse (⇧: faster, not on the object)"],
];

/** The action that waits for its new key. */
let waiting = null;

export function listenToHelp() {
  $("help-button").onclick = () => $("help").showModal();
  $("gestures").replaceChildren(...GESTURES.flatMap(([key, what]) => [element("dt", { textContent: key }), element("dd", { textContent: what })]));
  $("reset-keys").onclick = () => { resetKeys(); waiting = null; write($("key-state"), "Every key is as it was."); showKeys(); };
  $("help").addEventListener("keydown", onKey);
  $("help").addEventListener("close", () => { waiting = null; write($("key-state"), ""); showKeys(); });
  showKeys();
}

function onKey(event) {
  if (!waiting || ["Shift", "Control", "Alt", "Meta"].includes(event.key)) return;
  event.preventDefault();
  event.stopPropagation();
  const action = waiting;
  waiting = null;
  if (event.key === "Escape") write($("key-state"), "Nothing has changed.");
  else {
    const key = keyOf(event), problem = bind(action, key);
    write($("key-state"), problem ?? `${shownKey(key)}: ${action.what}`);
  }
  showKeys(action.id);
}

function showKeys(focused = null) {
  const rows = ACTIONS.flatMap((action) => {
    const key = boundKey(action);
    const button = element("button", { type: "button", className: "key", textContent: waiting === action ? "press a key" : shownKey(key) });
    button.setAttribute("aria-label", `${action.what}: ${shownKey(key)}. Push to change the key`);
    button.dataset.action = action.id;
    button.classList.toggle("waiting", waiting === action);
    button.onclick = () => { waiting = action; write($("key-state"), `Press the new key for: ${action.what}. Esc keeps the old one.`); showKeys(action.id); };
    return [element("dt", {}, button), element("dd", { textContent: action.what })];
  });
  $("keys").replaceChildren(...rows);
  if (focused) $("keys").querySelector(`[data-action="${focused}"]`)?.focus();
  // The keys on buttons elsewhere on the page.
  for (const node of document.querySelectorAll("kbd[data-key]")) {
    const action = ACTIONS.find(({ id }) => id === node.dataset.key);
    write(node, shownKey(boundKey(action)));
  }
}

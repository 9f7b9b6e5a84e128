// Classes: of new masks, of the chosen one, new ones, and number keys for them.

import { classify } from "/page/actions.js";
import { $, chosen, element, page, say, sentence, show } from "/page/page.js";
import { post } from "/page/server.js";

/** For the second digit of a class beyond the ninth. */
const DIGIT_MS = 900;
const NEW = "\u0000new";

let pending = { number: 0, timer: null };
let afterNew = null;

/** The choices of a list of classes, with a last one that makes a new class. */
export function classChoices(current) {
  const option = (value, textContent) => element("option", { value, textContent, selected: value === (current ?? "") });
  const named = page.project.classes.map((name, at) => option(name, at < 99 ? `${at + 1}  ${name}` : name));
  return [option("", "no class"), ...named, option(NEW, "new class…")];
}

/** Makes a list choose a class: calls `use(name)`, with null for none. */
export function onClass(select, current, use) {
  select.onchange = () => {
    if (select.value !== NEW) return use(select.value || null);
    select.value = current() ?? "";
    askForClass(use);
  };
}

function askForClass(use) {
  afterNew = use;
  $("class-name").value = "";
  $("class-problem").textContent = "";
  $("class-dialog").showModal();
}

async function makeClass(event) {
  event.preventDefault();
  const name = $("class-name").value.trim();
  if (!name) return;
  try {
    const { classes } = await post("/api/classes", { name });
    page.project.classes = classes;
    showClasses();
    $("class-dialog").close();
    afterNew?.(name);
    show();
  } catch (error) {
    $("class-problem").textContent = error.status ? sentence(error.message) : "The server does not answer";
  }
}

/** The list for new masks, after the classes have changed. */
export function showClasses() {
  const current = $("class").value;
  $("class").replaceChildren(...classChoices(current));
}

export function listenToClasses() {
  showClasses();
  onClass($("class"), () => $("class").value, (name) => { $("class").value = name ?? ""; $("canvas").focus(); });
  // What is chosen stays chosen while a new class is asked for.
  let before = "";
  $("class").addEventListener("focus", () => { before = $("class").value; });
  $("class").addEventListener("change", () => { if ($("class-dialog").open) $("class").value = before; else before = $("class").value; });
  $("class-form").onsubmit = makeClass;
  $("class-cancel").onclick = () => $("class-dialog").close();
}

/** A number key: one of three masks, otherwise a class for the chosen object, otherwise for new masks. 0 is no class. */
export function digit(n) {
  const { draft, project } = page;
  if (draft.candidates.length > 1 && n > 0) return draft.choose(n - 1);
  clearTimeout(pending.timer);
  const number = 10 * pending.number + n;
  pending = { number: 0, timer: null };
  const hasMore = number > 0 && 10 * number <= project.classes.length;
  if (!hasMore) return useClass(number);
  // A second digit may follow.
  const last = Math.min(project.classes.length, 10 * number + 9);
  say(`Class ${number}; or a second digit for ${10 * number} to ${last}`);
  pending = { number, timer: setTimeout(() => { pending = { number: 0, timer: null }; useClass(number); }, DIGIT_MS) };
}

function useClass(number) {
  const name = number === 0 ? null : page.project.classes[number - 1];
  if (name === undefined) return;
  const mask = chosen();
  if (mask) classify(mask, name);
  else $("class").value = name ?? "";
  say(`${mask ? "Class" : "New masks"}: ${name ?? "no class"}`);
}

// The text prompt: what is typed is the first prompt of an object, and clicks refine its mask. The field is there while the model in
// use takes texts.

import { act } from "/page/actions.js";
import { $, page, say } from "/page/page.js";

/** So much of a text is repeated in messages. */
const MAX_SHOWN = 40;

/** The text as messages have it. */
export function quoted(text) {
  const letters = [...text];
  return `“${letters.length > MAX_SHOWN ? `${letters.slice(0, MAX_SHOWN - 1).join("")}…` : text}”`;
}

/** The field, and whether its text is part of the object in the making. */
export function showText() {
  const { text } = page.draft, field = $("text");
  $("text-form").hidden = !page.project.takes_texts;
  $("text-form").classList.toggle("used", text !== null);
  // After undo it is another one, or the one before.
  if (text !== null && document.activeElement !== field && field.value !== text) field.value = text;
}

/** Goes to the field; what is typed takes the place of the text before. */
export function focusText() {
  if (!page.project.takes_texts) return say("The model in use takes no texts");
  $("text").focus();
  $("text").select();
}

export function listenToText() {
  $("text-form").onsubmit = (event) => {
    event.preventDefault();
    const text = $("text").value.trim();
    if (text === "") return say("Type what to look for, such as: a wheel", true);
    act({ kind: "text", text });
    // Enter commits and keys are keys again.
    $("canvas").focus({ preventScroll: true });
  };
}

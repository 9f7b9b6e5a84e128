// What happens elsewhere: other tabs and people, and rounds of training. Asked every two seconds while the page is visible.

import { load, watch } from "/page/images.js";
import { $, image, page, say, show, write } from "/page/page.js";
import { get, Refused } from "/page/server.js";

const PERIOD_MS = 2000;

export function startPulse() {
  setInterval(() => { if (!document.hidden) pulse(); }, PERIOD_MS);
  addEventListener("visibilitychange", () => { if (!document.hidden) pulse(); });
}

/** Asks once. */
export async function pulse() {
  if (!image()) return;
  const { id } = image();
  let answer;
  try {
    answer = await get(`/api/pulse?image=${id}`);
  } catch (error) {
    page.outbox.notice(error instanceof Refused);
    return;
  }
  page.outbox.notice(true);
  showRound(answer);
  if (answer.takes_texts !== page.project.takes_texts) {
    page.project.takes_texts = answer.takes_texts;
    show();
  }
  if (answer.model !== page.project.model) changeModel(answer);
  if (image().id !== id || page.outbox.hasOf(id)) return;
  if (answer.revision > page.revision) load().catch(() => {});
}

/** The running round, in the tab that leads to it. */
function showRound({ round, new_masks: newMasks }) {
  const share = round && round.fraction !== null ? ` ${Math.round(100 * round.fraction)} %` : "";
  write($("round-state"), round ? `${round.phase}${share}` : newMasks > 0 ? `+${newMasks}` : "");
  $("round-state").title = round ? `Round ${round.round} is running` : `${newMasks} new masks since the last round`;
  $("round-state").classList.toggle("running", round !== null);
}

/** A round has put a better model in place: it answers from the next click on. */
async function changeModel({ model, model_name: name }) {
  const isFirst = page.project.model === undefined;
  Object.assign(page.project, { model, model_name: name });
  if (isFirst) return;
  page.hover.drop();
  const title = (name ?? "A new model").replace(/^./, (letter) => letter.toUpperCase());
  say(`${title} is in use now`);
  // Another encoder must see the image anew.
  page.readiness = await get(`/api/images/${image().id}/readiness`).catch(() => page.readiness);
  if (page.readiness.state !== "ready") watch();
  page.proposals.refresh();
  const { rounds } = await get("/api/rounds").catch(() => ({ rounds: [] }));
  const round = rounds.findLast(({ decision }) => decision === "promoted");
  if (!round?.difference) return show();
  const points = 100 * round.difference.value;
  say(`Round ${round.round} is better: ${points >= 0 ? "+" : "−"}${Math.abs(points).toFixed(1)} points, in use now`);
}

// The page of rounds: what each one has learned from and whether it was better, and the one that is running.

import { chart } from "/page/charts.js";
import { $, element, page, sentence, write } from "/page/page.js";
import { get, post } from "/page/server.js";

const POLL_MS = 1000;
const PHASES = { collect: "Collecting masks", train: "Training", evaluate: "Measuring old and new", decide: "Deciding" };
const DECISIONS = { promoted: "Promoted", refused: "Refused", failed: "Failed", stopped: "Stopped" };

const percent = (value) => `${(100 * value).toFixed(1)} %`;
const points = ({ value, low, high }) => `${signed(100 * value)} (${signed(100 * low)} to ${signed(100 * high)})`;
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
const interval = (measured) => (measured ? `${percent(measured.value)}` : "–");
const count = (n, what) => `${n.toLocaleString()} ${what}${n === 1 ? "" : "s"}`;

/** Seconds as a person says them. */
export function spoken(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export class Rounds {
  constructor() {
    Object.assign(this, { answer: null, shown: "", problem: "", timer: null, turn: 0 });
    $("start-round").onclick = () => this.order("/api/rounds");
    $("stop-round").onclick = () => this.order("/api/rounds/stop");
  }

  /** The page is shown: asks until it is left. */
  async enter() {
    clearTimeout(this.timer);
    const turn = ++this.turn;
    if (page.place !== "rounds") return;
    if (!document.hidden) {
      try {
        this.answer = await get("/api/rounds");
        this.problem = "";
      } catch (error) {
        this.problem = error.status ? error.message : "The server does not answer";
      }
      this.show();
    }
    // A later call has its own timer.
    if (page.place === "rounds" && turn === this.turn) this.timer = setTimeout(() => this.enter(), POLL_MS);
  }

  async order(path) {
    $("start-round").disabled = $("stop-round").disabled = true;
    try {
      await post(path, {});
      this.problem = "";
    } catch (error) {
      this.problem = error.status ? error.message : "The server does not answer";
      write($("round-problem"), sentence(this.problem));
    }
    await this.enter();
  }

  show() {
    const { answer } = this;
    write($("round-problem"), sentence(this.problem));
    if (!answer) return;
    const { running, can_start: canStart, why_not: whyNot, new_masks: newMasks, masks, rounds } = answer;
    write($("round-masks"), `${count(newMasks, "new mask")} since the last round. ${count(masks.train, "mask")} to learn from, ${masks.validation.toLocaleString()} to measure with.`);
    $("start-round").disabled = !canStart || running !== null;
    $("start-round").hidden = running !== null;
    $("stop-round").hidden = running === null;
    $("stop-round").disabled = false;
    write($("round-why"), running === null && !canStart ? sentence(whyNot ?? "") : "");
    this.showRunning(running);
    // The history is drawn again only when it is another: a selection in the table stays.
    const text = JSON.stringify(rounds);
    if (text === this.shown) return;
    this.shown = text;
    this.showHistory(rounds);
  }

  showRunning(running) {
    $("round-running").hidden = running === null;
    if (!running) return;
    const { round, phase, detail, fraction, seconds, eta_seconds: eta } = running;
    write($("round-title"), `Round ${round}: ${PHASES[phase] ?? phase}`);
    if (fraction === null) $("round-bar").removeAttribute("value");
    else $("round-bar").value = fraction;
    const rest = eta === null ? "" : `, ${spoken(eta)} left`;
    write($("round-detail"), `${detail ? `${detail}, ` : ""}${spoken(seconds)} so far${rest}`);
  }

  showHistory(rounds) {
    $("round-table").hidden = $("round-charts").hidden = rounds.length === 0;
    $("round-none").hidden = rounds.length > 0;
    $("round-rows").replaceChildren(...[...rounds].reverse().map(row));
    const of = (key) => rounds.filter((round) => round[key] !== null && round[key] !== undefined);
    const measured = (key) => of(key).map((round) => ({ x: round.round, ...round[key] }));
    const plain = (key) => of(key).map((round) => ({ x: round.round, value: round[key] }));
    $("round-charts").replaceChildren(
      chart({ title: "IoU after one click", write: (value) => `${Math.round(100 * value)} %`, series: [
        { name: "before", mark: "b", points: measured("miou_before") }, { name: "after", mark: "a", points: measured("miou_after") }] }),
      chart({ title: "Seconds per mask", write: (value) => String(Math.round(value * 10) / 10), isFromZero: true, series: [{ name: "seconds", mark: "a", points: plain("seconds_per_mask") }] }),
      chart({ title: "Clicks per mask", write: (value) => String(Math.round(value * 10) / 10), isFromZero: true, series: [{ name: "clicks", mark: "a", points: plain("clicks_per_mask") }] }),
    );
  }
}

function row(round) {
  const cell = (text, className = "number") => element("td", { className, textContent: text });
  const one = (value) => (value === null || value === undefined ? "–" : value.toFixed(1));
  const date = new Date(round.finished ?? NaN);
  const when = Number.isNaN(date.getTime()) ? round.finished ?? "" : date.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  const decision = element("span", { className: `decision ${round.decision}`, textContent: DECISIONS[round.decision] ?? round.decision });
  const reasons = element("div", { className: "soft", textContent: (round.reasons ?? []).join(" ") });
  return element("tr", {}, element("th", { scope: "row", textContent: String(round.round) }), element("td", { className: "verdict" }, decision, reasons),
    cell(round.masks?.toLocaleString() ?? "–"), cell(round.validation_masks?.toLocaleString() ?? "–"), cell(one(round.seconds_per_mask)), cell(one(round.clicks_per_mask)),
    cell(interval(round.miou_before)), cell(interval(round.miou_after)), cell(round.difference ? points(round.difference) : "–"), cell(when, "soft when"));
}

// Requests to the server, and the operations that it has not yet confirmed.
// An operation is in localStorage until the server has said that it is on disk. It is sent again until then: the server answers a
// repeated one as before.

const RETRY_MS = 1000;
const HEADERS = { "Content-Type": "application/json", "X-Sam-Train": "1" };

/** An answer that is no success. */
export class Refused extends Error {
  constructor(status, body) {
    super(body.error ?? `the server answers ${status}`);
    Object.assign(this, { status, body });
  }
}

async function answered(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, body);
  return body;
}

export const get = async (path) => answered(await fetch(path));
export const post = async (path, body, signal) =>
  answered(await fetch(path, { method: "POST", headers: HEADERS, body: JSON.stringify(body), signal }));

/** Operations on their way to the disk. */
export class Outbox {
  /** `onChange(state, count, problem)`: "saved", "saving", "offline" or "failing"; `onApplied(operation, applied)`; `onRefused(operation, error)`. */
  constructor(project, { onChange, onApplied, onRefused }) {
    Object.assign(this, { prefix: `sam-train/${project}/`, onChange, onApplied, onRefused, isBusy: false, state: "saved" });
    const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.prefix)).sort();
    this.waiting = keys.map((key) => ({ key, operation: JSON.parse(localStorage.getItem(key)) }));
    // Tabs share the storage, and must not write over each other's operations.
    Object.assign(this, { count: keys.length, tab: crypto.randomUUID().slice(0, 8) });
    addEventListener("beforeunload", (event) => { if (this.waiting.length > 0) event.preventDefault(); });
    addEventListener("online", () => this.flush());
    this.flush();
  }

  push(operation) {
    const key = `${this.prefix}${Date.now().toString(36).padStart(10, "0")}-${String(this.count++).padStart(6, "0")}-${this.tab}`;
    const entry = { key, operation };
    this.keep(entry);
    this.waiting.push(entry);
    if (this.isBusy) this.tell(this.state);
    this.flush();
  }

  keep({ key, operation }) {
    // A full or forbidden storage: the operation is still sent, and leaving the page asks.
    try { localStorage.setItem(key, JSON.stringify(operation)); } catch { /* see above */ }
  }

  /** Resolves when nothing waits any more. */
  async settled() {
    while (this.waiting.length > 0) await new Promise((resolve) => setTimeout(resolve, 50));
  }

  /** Another request has found the server gone, or there again. */
  notice(isThere) {
    if (this.waiting.length > 0) return;
    if (isThere === (this.state === "offline")) this.tell(isThere ? "saved" : "offline");
  }

  /** Whether there are operations of an image that the server has not confirmed. */
  hasOf(image) {
    return this.waiting.some(({ operation }) => operation.image === image);
  }

  get isStuck() {
    return this.state === "offline" || this.state === "failing";
  }

  tell(state, problem = "") {
    this.state = state;
    this.onChange(state, this.waiting.length, problem);
  }

  /** Sends what waits, one after the other. */
  async flush() {
    if (this.isBusy) return;
    this.isBusy = true;
    while (this.waiting.length > 0) {
      if (!this.isStuck) this.tell("saving");
      const [entry] = this.waiting;
      try {
        const applied = await post("/api/operations", entry.operation);
        this.state = "saving";
        this.settle(entry);
        this.rebase(entry.operation, applied.revision);
        this.onApplied(entry.operation, applied);
      } catch (error) {
        const isFinal = error instanceof Refused && [400, 409, 413].includes(error.status);
        if (isFinal) {
          this.settle(entry);
          this.onRefused(entry.operation, error);
        } else {
          // The server is away, or its disk is full.
          this.tell(error instanceof Refused ? "failing" : "offline", error.message);
          await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
        }
      }
    }
    this.isBusy = false;
    this.tell("saved");
  }

  settle(entry) {
    this.waiting = this.waiting.filter((other) => other !== entry);
    localStorage.removeItem(entry.key);
  }

  /** What waits was made with this operation in sight, so it has seen the revision that the operation has made. */
  rebase({ image, base }, revision) {
    if (revision !== base + 1) return;
    for (const entry of this.waiting) {
      if (entry.operation.image === image && entry.operation.base === base) {
        entry.operation.base = revision;
        this.keep(entry);
      }
    }
  }
}

// To the server and back. What cannot be sent waits in this browser, in the order in which it was made, and is tried again.

import { forget, keep, kept, keysUnder } from "./kept.js";

const PATIENCE_MS = 20_000; // for one answer of the server
const WAITS_SECONDS = [1, 2, 4, 8, 15, 30];
const SESSION = "kit-label-key";

// A page within a notebook has its key in the address, once; from there it goes to where only this tab can read it.
let key = null;
const fromAddress = new URLSearchParams(location.hash.slice(1)).get("key");
try {
  if (fromAddress) sessionStorage.setItem(SESSION, fromAddress);
  key = fromAddress ?? sessionStorage.getItem(SESSION);
} catch {
  key = fromAddress;
}
if (fromAddress) history.replaceState(history.state, "", location.pathname + location.search);

// What the server answered: {status, body}; status 0 where there was none.
export async function ask(path, body = null) {
  const headers = { Accept: "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== null) headers["Content-Type"] = "application/json";
  try {
    const answer = await fetch(path, {
      method: body === null ? "GET" : "POST",
      headers,
      body: body === null ? null : JSON.stringify(body),
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    return { status: answer.status, body: await answer.json() };
  } catch {
    return { status: 0, body: null };
  }
}

export class Outbox {
  // `stored(entry)`; `refused(entry)`: it will never be stored as it is; `closed()`: nobody knows this person;
  // `whose()`: ask who this is, which stops this outbox where it is somebody else; `changed()`: anything else.
  constructor(place, { stored, refused, changed, closed, whose }) {
    Object.assign(this, { place, stored, refused, changed, closed, whose, failures: 0, nextTry: null, timer: null, sending: false });
    addEventListener("beforeunload", (event) => { if (!this.stopped && this.waiting().length) event.preventDefault(); });
  }

  // Another person's page now: leave what waits where it is.
  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
  }

  entries() {
    return keysUnder(`${this.place}:out:`).map(kept).filter(Boolean).sort((a, b) => a.made - b.made);
  }

  waiting() {
    return this.entries().filter((entry) => !entry.refused);
  }

  add(body) {
    const last = this.entries().at(-1)?.made ?? 0;
    keep(`${this.place}:out:${body.id}`, { made: Math.max(Date.now(), last + 1), body });
    this.changed();
    this.flush();
  }

  drop(id) {
    forget(`${this.place}:out:${id}`);
    this.changed();
  }

  again(entry) {
    keep(`${this.place}:out:${entry.body.id}`, { ...entry, refused: null, answer: null });
    this.flush();
  }

  // Send all that waits, one after the other; at the first that finds no server wait, longer each time.
  async flush() {
    if (this.sending || this.stopped) return;
    this.sending = true;
    clearTimeout(this.timer);
    this.nextTry = null;
    let entry;
    while ((entry = this.waiting()[0])) {
      const answer = await ask("api/judgements", entry.body);
      if (answer.status === 200) {
        this.failures = 0;
        this.why = null;
        this.drop(entry.body.id);
        this.stored(entry);
      } else if (answer.status === 401) {
        this.sending = false;
        this.closed();
        return;
      } else if (answer.status >= 400 && answer.status < 500 && ![403, 408, 429].includes(answer.status)) {
        await this.whose(); // the link of another person may have been opened: then this waits for its own
        if (this.stopped) return;
        const refused = { ...entry, refused: answer.body?.error || `status ${answer.status}`, standing: answer.body?.standing ?? null };
        keep(`${this.place}:out:${entry.body.id}`, refused);
        this.refused(refused);
      } else {
        this.wait(answer.body?.error ?? null);
        break;
      }
    }
    this.sending = false;
    this.changed();
  }

  wait(why) {
    const seconds = WAITS_SECONDS[Math.min(this.failures, WAITS_SECONDS.length - 1)];
    this.failures += 1;
    this.why = why;
    this.nextTry = Date.now() + 1000 * seconds;
    this.timer = setTimeout(() => this.flush(), 1000 * seconds);
  }
}

// What stays in this browser: drafts, what was not sent yet, which guidelines were read. In memory where it keeps nothing.

const PREFIX = "kit-label";
const memory = new Map();
let storage = null;
let full = false;
try {
  storage = window.localStorage;
  storage.getItem(PREFIX);
} catch {
  storage = null;
}
try {
  storage?.setItem(`${PREFIX}:try`, "1");
  storage?.removeItem(`${PREFIX}:try`);
} catch {
  full = true; // what is there is still read, sent and removed
}

// Whether a closed tab loses anything: no storage here, or none left.
export const lasts = () => storage !== null && !full;

export function keep(key, value) {
  const name = `${PREFIX}:${key}`;
  memory.delete(name);
  try {
    if (storage === null) throw new Error("no storage");
    storage.setItem(name, JSON.stringify(value));
  } catch {
    if (storage !== null) full = true;
    memory.set(name, JSON.stringify(value));
  }
}

export function kept(key) {
  const name = `${PREFIX}:${key}`;
  try {
    const text = memory.get(name) ?? storage?.getItem(name);
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

export function forget(key) {
  const name = `${PREFIX}:${key}`;
  memory.delete(name);
  try {
    storage?.removeItem(name);
  } catch { /* it is gone with the browser's storage */ }
}

// The keys that begin so, without the prefix of all.
export function keysUnder(start) {
  const names = new Set(memory.keys());
  try {
    for (let at = 0; at < (storage?.length ?? 0); at += 1) names.add(storage.key(at));
  } catch { /* only memory, then */ }
  const from = `${PREFIX}:${start}`;
  return [...names].filter((name) => name.startsWith(from)).map((name) => name.slice(PREFIX.length + 1));
}

// A new id. randomUUID exists only in secure contexts, and http to another machine is none.
export function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// A short print of what an item shows, so that a draft is never put on another item.
export function printOf(item) {
  let print = 0x811c9dc5;
  for (const text of [...item.prompt.map((turn) => turn.content), ...item.answers]) {
    const some = `${text.length}:${text.slice(0, 2000)}${text.slice(-2000)}`;
    for (let at = 0; at < some.length; at += 1) print = Math.imul(print ^ some.charCodeAt(at), 0x01000193) >>> 0;
  }
  return print.toString(16);
}

// The page on which one person judges, item after item. Nothing is waited for: a judgement is kept here, and sent when it can be.

import { Clock } from "./clock.js";
import * as dialogs from "./dialogs.js";
import { differs, Drafts, judgement, withNone } from "./drafts.js";
import { keep, kept, lasts, newId } from "./kept.js";
import { markdown } from "./markdown.js";
import { notice } from "./notices.js";
import * as order from "./order.js";
import { letter, Ranking } from "./rank.js";
import { ask, Outbox } from "./sending.js";
import { conversation, element, visible } from "./text.js";

const one = (id) => document.getElementById(id);
const MORE_SECONDS = 20; // between looks for more work where there is none
const RETRY_SECONDS = [1, 2, 4, 8, 15];
const TOO_SOON_MS = 450; // a second click of a double click is no answer to the next item

const clock = new Clock();
let about = null; // the last answer to api/work
let place = ""; // what keys in this browser begin with: project, its beginning, person
let outbox = null;
let drafts = null;
let item = null; // on the page now
let draft = null;
let looking = null; // {list, at}: one's own judgements, and which of them is on the page
let resting = false; // nothing is left on the page
let connected = true;
let shownAt = 0;
let retries = 0;
let retry = null;
const mine = new Map(); // deal -> {...item, ...judgement}: handed in since the page was opened, latest last
const uncounted = new Set(); // deals handed in that the progress does not know of

const say = (text) => { one("said").textContent = one("said").textContent === text ? `${text}\u00a0` : text; };
const ranking = new Ranking(one("answers"), one("answer"), { changed: changed, say });

// ---- work

async function fetchWork() {
  const answer = await ask("api/work");
  if (answer.status === 401) return closed();
  if (answer.status !== 200) {
    connected = false;
    clearTimeout(retry);
    retry = setTimeout(lookForWork, 1000 * RETRY_SECONDS[Math.min(retries, RETRY_SECONDS.length - 1)]);
    retries += 1;
    tell(answer.status === 0 ? null : answer.body?.error);
    return false;
  }
  connected = true;
  retries = 0;
  const found = answer.body;
  const now = [found.project, found.created, found.annotator].map(encodeURIComponent).join(":");
  const another = now !== place;
  about = found;
  if (another) begin(now, found);
  const waiting = new Set(outbox.entries().map((entry) => entry.body.deal));
  for (const deal of uncounted) if (!waiting.has(deal)) uncounted.delete(deal);
  tell();
  if (another) showNext();
  return true;
}

// Whose page this is: the first person, or another one, whose link was opened in this browser meanwhile.
function begin(now, found) {
  place = now;
  outbox?.stop();
  outbox = new Outbox(place, { stored, refused, changed: () => { tell(); if (resting && outbox.failures) rest(); }, closed, whose: fetchWork });
  drafts = new Drafts(place);
  mine.clear();
  uncounted.clear();
  looking = null;
  still("One moment", "");
  for (const entry of outbox.waiting()) if (!entry.body.supersedes) uncounted.add(entry.body.deal);
  one("project").textContent = visible(found.project);
  document.title = `${found.kind === "ab" ? "Compare" : "Rank"}: ${visible(found.project)}`;
  dialogs.listKeys(found.kind);
  one("open-keys").hidden = false;
  outbox.flush();
}

const handed = (deal) => mine.has(deal) || outbox.entries().some((entry) => entry.body.deal === deal);
const held = () => about.work.filter((one) => !handed(one.deal));

// ---- what is on the page

function showNext() {
  looking = null;
  const next = held()[0];
  if (!next) return rest();
  if (item?.deal === next.deal && draft && !draft.supersedes && !one("item").hidden) return undefined;
  show(next, drafts.of(next));
  readGuidelines();
  return undefined;
}

function show(shown, its) {
  const another = item?.deal !== shown.deal || one("item").hidden;
  resting = false;
  item = shown;
  draft = its;
  shownAt = performance.now();
  clock.start(draft.seconds);
  one("still").hidden = true;
  one("item").hidden = one("foot").hidden = false;
  document.body.classList.toggle("ab", about.kind === "ab");
  one("choice").hidden = about.kind !== "ab";
  one("turns").replaceChildren(...conversation(item.prompt));
  one("comment").value = draft.comment;
  fold(draft.comment === "");
  ranking.open(item.answers, draft.groups, draft.touched, about.kind === "ab");
  one("looking").hidden = looking === null;
  if (looking) tellLooking();
  refresh();
  if (another) {
    scrollTo({ top: 0, behavior: "instant" });
    one("prompt").focus({ preventScroll: true });
  }
}

function refresh() {
  const ab = about.kind === "ab";
  const unchanged = looking !== null && !differs(draft, standing()) && (draft.touched || ab);
  one("answers-title").textContent = ab ? "Which answer is better?" : `Rank these ${item.answers.length} answers, best on top`;
  one("how").hidden = ab;
  one("none").setAttribute("aria-pressed", String(draft.none));
  one("send").textContent = unchanged ? "Unchanged" : !ab && !draft.touched ? "This order is right" : looking ? "Send the change" : "Send";
  one("send").classList.toggle("main", draft.touched && !unchanged);
  one("send").setAttribute("aria-disabled", String(unchanged || (ab && !draft.touched)));
  const choice = !draft.touched ? null : draft.groups.length === 1 ? "tie" : String(draft.groups[0][0]);
  document.querySelectorAll("input[name=choice]").forEach((input) => { input.checked = input.value === choice; });
}

function still(title, text, actions = []) {
  resting = false;
  const same = one("still-title").textContent === title && one("still-text").textContent === text;
  if (same && !one("still").hidden) return; // looked again, and nothing is new: the focus stays where it is
  item = draft = null;
  one("item").hidden = one("foot").hidden = true;
  one("still").hidden = false;
  one("still-title").textContent = title;
  one("still-text").textContent = text;
  one("still-actions").replaceChildren(...actions.map(([label, act]) => {
    const button = element("button", "", label);
    button.type = "button";
    button.addEventListener("click", act);
    return button;
  }));
  one("still").focus({ preventScroll: true });
}

// Nothing is left here: the end of the work, or of what was fetched before the connection went.
function rest() {
  if (!connected || outbox.failures) {
    still("All that is here is done", "It is sent, and more comes, as soon as there is a connection.", [["Try now", lookForWork]]);
  } else if (outbox.waiting().length) still("One moment", "What you did last is being saved.");
  else if (about.progress.done) {
    const left = about.progress.left ? " Others are at the rest; if they leave something, it comes to you here." : "";
    still("That was all. Thank you!", `You judged ${count(about.progress.done, "item")}. All of it is saved.${left}`, [["Look at what you sent", previous]]);
  } else still("Nothing is left to judge", "Others have judged everything here, or are at it. If they leave something, it comes to you here by itself.");
  resting = true;
}

const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

// Progress, and what is not sent.
function tell(why = null) {
  if (!about) {
    if (!connected) still("No connection to the server", why || "It may be restarting. This page tries again by itself.", [["Try now", lookForWork]]);
    return;
  }
  const entries = outbox.entries();
  const waiting = entries.filter((entry) => !entry.refused).length;
  const off = !connected || outbox.failures > 0;
  const where = lasts() ? "kept in this browser" : "kept as long as this page is open";
  const unsent = waiting ? `${waiting} not sent yet; ${waiting === 1 ? "it is" : "they are"} ${where}.` : "Go on; what you do is kept.";
  const reason = outbox.why ?? why;
  notice("connection", off ? `${reason ? `The server says: ${reason}.` : "No connection at the moment."} ${unsent}` : "", [["Try now", lookForWork]]);
  notice("memory", lasts() ? "" : "This browser keeps nothing here: what is not sent is lost when the page is closed.");
  const bad = entries.find((entry) => entry.refused && !entry.standing);
  notice("refused", bad ? `The server refused a judgement: ${bad.refused}` : "", [["Try again", () => again()], ["Discard it", () => discard()]], "warn");
  const clash = entries.find((entry) => entry.standing);
  notice("conflict", clash ? "You judged one item twice, and not the same way." : "", [["Look", settle]], "warn");

  const { done, left, seconds_left: seconds } = about.progress;
  one("previous").hidden = done + mine.size === 0;
  const more = uncounted.size;
  const [now, rest] = [done + more, Math.max(0, left - more)];
  one("bar").hidden = now + rest === 0;
  one("bar").setAttribute("aria-valuemax", now + rest);
  one("bar").setAttribute("aria-valuenow", now);
  one("filled").style.width = `${(100 * now) / Math.max(1, now + rest)}%`;
  const minutes = Math.ceil((left ? (seconds * rest) / left : 0) / 60);
  const time = minutes < 2 ? "a minute" : minutes < 90 ? `${minutes} min` : `${Math.round(minutes / 60)} h`;
  const did = now ? `${now} ${entries.length ? "done" : "saved"}` : "";
  one("told").textContent = rest ? `${did ? `${did}, about ${rest} left` : `About ${rest} to judge`} · ${time}` : did;
}

const again = () => outbox.entries().filter((entry) => entry.refused && !entry.standing).forEach((entry) => outbox.again(entry));
const discard = () => {
  const bad = outbox.entries().find((entry) => entry.refused && !entry.standing);
  if (bad) {
    mine.delete(bad.body.deal);
    uncounted.delete(bad.body.deal);
    outbox.drop(bad.body.id);
    refill(); // the item comes again, after the one that is on the page
  }
};

function closed() {
  still("Please open your link again", "This page does not know you any more: the link was renewed, or this browser forgot it. If yours no longer works, ask whoever runs this project for a new one. What you did is kept here.");
  one("previous").hidden = one("open-guidelines").hidden = true;
  notice("connection", "");
  return false;
}

// ---- what a person does

function changed(groups) {
  draft = { ...draft, groups, touched: true, tiedByNone: false };
  save();
  refresh();
}

function save() {
  if (!item) return;
  draft.seconds = clock.seconds;
  if (!looking || differs(draft, standing())) drafts.save(item, draft);
}

function choose(value) {
  if (!item) return;
  const groups = value === "tie" ? order.allTied(2) : order.placed(order.inPageOrder(2), Number(value), 1);
  ranking.set(groups, null, false);
  say(value === "tie" ? "They are equal." : `Answer ${value === "0" ? "A" : "B"} is better.`);
}

function toggleNone() {
  draft = withNone(draft, !draft.none, item.answers.length);
  ranking.show(draft.groups, draft.touched);
  save();
  refresh();
  say(draft.none ? "None is acceptable." : "Some answer is acceptable.");
}

function fold(hidden) {
  one("comment-part").hidden = hidden;
  one("add-comment").setAttribute("aria-expanded", String(!hidden));
}

function comment() {
  fold(false);
  one("comment").focus();
  one("comment-part").scrollIntoView({ block: "nearest" });
}

function submit() {
  if (!item) return;
  if (one("send").getAttribute("aria-disabled") === "true") {
    say(looking ? "Nothing is changed." : "Choose A, B or equal first.");
    return;
  }
  if (about.kind !== "ab" && performance.now() - shownAt < TOO_SOON_MS) return;
  if (!draft.touched) {
    shownAt = performance.now();
    ranking.show(draft.groups, true);
    changed(draft.groups);
    say("The order stays. Send it with the same button.");
    return;
  }
  hand(null);
}

// Into the outbox, and on to the next item.
function hand(skip) {
  draft.seconds = clock.seconds;
  const body = judgement(item, draft, seen() ?? about.guidelines.sha256, skip);
  drafts.forget(item);
  mine.delete(item.deal);
  mine.set(item.deal, { ...item, ranks: null, skip: null, ...body });
  if (!draft.supersedes) uncounted.add(item.deal);
  outbox.add(body);
  say(skip === null ? "Sent." : "Skipped.");
  history.replaceState({ look: item.deal }, "");
  history.pushState({ now: true }, "");
  showNext();
}

function stored(entry) {
  uncounted.add(entry.body.deal);
  if (entry.body.supersedes) uncounted.delete(entry.body.deal);
  refill();
}

let filling = false;
async function refill() {
  if (filling) return;
  filling = true;
  const came = await fetchWork();
  filling = false;
  if (came && !looking && !one("still").hidden) showNext();
}

function refused(entry) {
  tell();
  if (entry.standing) settle();
}

async function lookForWork() {
  clearTimeout(retry);
  await outbox?.flush();
  if (await fetchWork() && !looking && !one("still").hidden) showNext();
}

// ---- an item that was judged before, in another tab

// An order as a list: place, letter, the answer's first words.
function ranked(ranks, answers) {
  const list = element("ul");
  order.fromRanks(ranks).forEach((group, at) => group.forEach((answer) => {
    const row = element("li");
    const text = answers[answer].trim();
    const words = element("span", "text", visible(text.length > 70 ? `${text.slice(0, 70).trimEnd()}…` : text));
    words.dir = "auto";
    row.append(element("span", "", `${at + 1}. ${letter(answer)}`), words);
    list.append(row);
  }));
  return list;
}

function settle() {
  const entry = outbox.entries().find((one) => one.standing);
  if (!entry || !dialogs.open("conflict")) return;
  one("keep-stored").focus();
  const { body, standing: stands } = entry;
  const told = (its) => {
    const made = element("div");
    made.append(its.ranks ? ranked(its.ranks, stands.answers) : element("p", "", `Skipped: ${visible(its.skip ?? "")}`));
    if (its.none_acceptable) made.append(element("p", "", "None is acceptable."));
    if (its.comment) made.append(element("p", "text", visible(its.comment)));
    return made;
  };
  one("conflict-prompt").textContent = visible(stands.prompt.at(-1)?.content.slice(0, 300) ?? "");
  one("conflict-stored").replaceChildren(told(stands));
  one("conflict-sent").replaceChildren(told(body));
  const end = () => {
    one("conflict").close();
    outbox.drop(body.id);
    uncounted.delete(body.deal);
    tell();
  };
  one("keep-stored").onclick = () => {
    mine.set(body.deal, stands);
    end();
    say("What is stored stays.");
    refill();
  };
  one("replace-stored").onclick = () => {
    const next = { ...body, id: newId(), supersedes: stands.id };
    mine.set(body.deal, { ...stands, ranks: null, skip: null, ...next });
    end();
    outbox.add(next);
    say("Replaced.");
  };
}

// ---- one's own earlier judgements

const standing = () => looking.list[looking.at];

// What was handed in, latest first: here since the page was opened, and before that, as the server knows it.
async function own() {
  const answer = await ask("api/history");
  const before = answer.status === 200 ? answer.body.judgements : [];
  return [...[...mine.values()].reverse(), ...before.filter((one) => !mine.has(one.deal))];
}

async function look(find, push) {
  save();
  const list = await own();
  const at = find(list);
  if (at < 0 || at >= list.length) {
    say("There is nothing before this.");
    if (!list.length) notice("first", "This is the first item; you have sent nothing before it.");
    return false;
  }
  looking = { list, at };
  if (push) history.pushState({ look: list[at].deal }, "");
  show(list[at], drafts.of(list[at], list[at]));
  return true;
}

const previous = () => look(() => (looking ? looking.at + 1 : 0), true);

function tellLooking() {
  const its = standing();
  one("looking-text").textContent = its.skip ? `You skipped this one: ${visible(its.skip)}` : "You sent this one. Change it if you like.";
  one("newer").hidden = looking.at === 0;
}

function goOn() {
  save();
  history.pushState({ now: true }, "");
  item = null;
  showNext();
}

// Back leads to what was sent last, and off the page only from there. An entry that no touch made is skipped by browsers.
function guard() {
  if (history.state) return;
  history.replaceState({ before: true }, "");
  history.pushState({ now: true }, "");
}

addEventListener("popstate", async (event) => {
  if (!about) return;
  notice("first", "");
  const state = event.state ?? {};
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  if (state.look && await look((list) => list.findIndex((one) => one.deal === state.look), false)) return;
  if (state.before && await look(() => 0, false)) return;
  save();
  if (looking) item = null;
  showNext();
});

// ---- guidelines

const seen = () => kept(`${place}:guidelines`);

function readGuidelines(asked = false) {
  const { text, sha256 } = about.guidelines;
  one("open-guidelines").hidden = !text.trim();
  if (!text.trim() || (!asked && seen() === sha256) || !dialogs.open("guidelines")) return;
  const first = seen() === null;
  one("guidelines-changed").hidden = first || seen() === sha256;
  one("guidelines-text").replaceChildren(...markdown(text));
  one("guidelines-text").scrollTop = 0;
  one("close-guidelines").textContent = first ? "Start" : "Close";
  one("close-guidelines").focus();
  one("guidelines").onclose = () => {
    keep(`${place}:guidelines`, sha256);
    one("prompt").focus({ preventScroll: true });
  };
}

// ---- keys

const typing = (target) => target.matches("textarea, input:not([type=radio]):not([type=checkbox]), select");
const singleKeys = () => kept("single-keys") !== false;

function onKey(event) {
  if (event.isComposing || event.defaultPrevented || dialogs.anyOpen()) return;
  const { key, target } = event;
  if (key === "Enter" && (event.ctrlKey || event.metaKey)) {
    if (!event.repeat) submit();
    event.preventDefault();
    return;
  }
  if (event.ctrlKey || event.metaKey || typing(target)) {
    if (key === "Escape" && target.id === "comment") one("prompt").focus({ preventScroll: true });
    return;
  }
  const act = arrows(event) ?? (event.altKey ? null : named(key, target, event.repeat)) ?? (event.altKey || !singleKeys() ? null : single(key));
  if (!act) return;
  event.preventDefault();
  notice("first", "");
  act();
}

function arrows({ key, altKey, shiftKey, target }) {
  if (!item || target.matches(".own-scroll, input[type=radio]")) return null; // these know arrows by themselves
  const by = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (by) return () => (about.kind !== "ab" && (altKey || shiftKey) ? ranking.move(by) : ranking.step(by));
  if (about.kind === "ab" && !altKey && key === "ArrowLeft") return () => choose("0");
  if (about.kind === "ab" && !altKey && key === "ArrowRight") return () => choose("1");
  return null;
}

function named(key, target, repeat) {
  const busy = target.closest("button, summary, a");
  if (key === "Enter" && item && !busy) return repeat ? () => {} : submit;
  return null;
}

function single(key) {
  const small = key.toLowerCase();
  const everywhere = { g: () => readGuidelines(true), "?": () => dialogs.open("keys"), p: previous };
  if (everywhere[small]) return everywhere[small];
  if (!item) return null;
  const ab = about.kind === "ab";
  if (/^[1-9]$/.test(key)) return ab ? () => key <= 2 && choose(String(key - 1)) : () => ranking.place(Number(key));
  if (key === "=" || small === "t") return ab ? () => choose("tie") : () => ranking.tie();
  return { s: () => dialogs.askWhy(hand), n: toggleNone, c: comment }[small] ?? null;
}

// ---- wiring

document.addEventListener("keydown", onKey);
document.addEventListener("keydown", guard, { capture: true });
document.addEventListener("pointerup", guard, { capture: true });
one("send").addEventListener("click", submit);
one("send").addEventListener("keydown", (event) => { if (event.repeat) event.preventDefault(); });
one("skip").addEventListener("click", () => dialogs.askWhy(hand));
one("none").addEventListener("click", toggleNone);
one("add-comment").addEventListener("click", () => (one("comment-part").hidden ? comment() : fold(true)));
one("comment").addEventListener("input", () => {
  draft = { ...draft, comment: one("comment").value };
  save();
  refresh();
});
one("previous").addEventListener("click", previous);
one("newer").addEventListener("click", () => look(() => looking.at - 1, true));
one("go-on").addEventListener("click", goOn);
one("open-guidelines").addEventListener("click", () => readGuidelines(true));
one("close-guidelines").addEventListener("click", () => one("guidelines").close());
one("open-keys").addEventListener("click", () => dialogs.open("keys"));
one("single-keys").checked = singleKeys();
one("single-keys").addEventListener("change", (event) => keep("single-keys", event.target.checked));
document.querySelectorAll("input[name=choice]").forEach((input) => input.addEventListener("change", () => choose(input.value)));
one("answers").addEventListener("click", (event) => {
  const card = event.target.closest(".pair .card");
  if (card && !event.target.closest("button") && getSelection().isCollapsed) choose(String(ranking.answerOf(card.closest("li"))));
});
document.addEventListener("visibilitychange", save);
addEventListener("pagehide", save);
addEventListener("online", lookForWork);
setInterval(() => {
  if (document.hidden || looking) return;
  if (!item) lookForWork();
}, 1000 * MORE_SECONDS);

await lookForWork();

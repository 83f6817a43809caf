// Dialogs: one at a time, closed by Escape, the focus back where it was. The keys' list, and reasons to skip.

import { element } from "./text.js";

const one = (id) => document.getElementById(id);
const RANK = [
  ["↑ ↓", "to the answer above, below"],
  ["Alt or Shift with ↑ ↓", "move the answer"],
  ["1 … 9", "give the answer that place"],
  ["= or T", "tie it with the one above, or part them"],
];
const PAIR = [["← or 1", "A is better"], ["→ or 2", "B is better"], ["= or T", "they are equal"]];
const BOTH = [
  ["Enter", "send; in the comment with Ctrl"],
  ["S", "skip, with a reason"],
  ["N", "none is acceptable"],
  ["C", "comment"],
  ["P", "what you sent before"],
  ["G", "guidelines"],
  ["?", "these keys"],
];

export function open(id) {
  const dialog = one(id);
  if (document.querySelector("dialog[open]")) return false;
  dialog.showModal();
  dialog.querySelector("button.main").focus();
  return true;
}

export const anyOpen = () => document.querySelector("dialog[open]") !== null;

export function listKeys(kind) {
  const rows = [...(kind === "ab" ? PAIR : RANK), ...BOTH];
  one("keys-list").replaceChildren(...rows.map(([keys, does]) => {
    const row = element("div");
    const term = element("dt");
    keys.split(/( or | with |; | … )/).forEach((part, at) => {
      term.append(...(at % 2 ? [part] : part.split(" ").map((name) => element("kbd", "", name))));
    });
    row.append(term, element("dd", "", does));
    return row;
  }));
}

// Asks why; `skip(reason)` with the reason in a few words.
export function askWhy(skip) {
  const reasons = [...document.querySelectorAll("input[name=reason]")];
  const words = one("reason-words");
  reasons.forEach((reason) => { reason.checked = false; });
  words.value = "";
  one("reason-missing").hidden = true;
  const done = () => {
    const reason = reasons.find((one) => one.checked)?.value ?? (words.value.trim() ? "Something else" : null);
    if (!reason) {
      one("reason-missing").hidden = false;
      reasons[0].focus();
      return;
    }
    one("skipping").close();
    skip(words.value.trim() ? `${reason}: ${words.value.trim()}` : reason);
  };
  one("skip-now").onclick = done;
  one("skipping").onkeydown = (event) => {
    if (event.key === "Enter" && !event.isComposing && !event.repeat && event.target.matches("input")) {
      event.preventDefault();
      done();
    }
  };
  if (open("skipping")) reasons[0].focus();
}

document.querySelectorAll("dialog [data-close]").forEach((button) => {
  button.addEventListener("click", () => button.closest("dialog").close());
});

// What a person should know and need not act on: no connection, what was not sent yet, what the server refused.

import { element } from "./text.js";

const part = document.getElementById("notices");
const shown = new Map();

// Show a notice under a name, another text in its place, or none where the text is empty. Actions: [label, what it does].
export function notice(name, text, actions = [], tone = "") {
  const before = shown.get(name);
  if (!text) {
    before?.box.remove();
    shown.delete(name);
    return;
  }
  const labels = actions.map(([label]) => label).join();
  if (before && before.labels === labels) {
    if (before.words.textContent !== text) before.words.textContent = text;
    return;
  }
  const box = element("div", `notice ${tone}`);
  box.dataset.name = name;
  const words = element("p", "", text);
  words.setAttribute("role", "status");
  box.append(words, ...actions.map(([label, act]) => {
    const button = element("button", "", label);
    button.type = "button";
    button.addEventListener("click", act);
    return button;
  }));
  if (before) before.box.replaceWith(box);
  else part.append(box);
  shown.set(name, { box, words, labels });
}

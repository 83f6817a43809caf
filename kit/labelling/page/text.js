// Other people's text as the page shows it: text and nothing else, with its hidden characters written out.

// As kit.compare.report.text.HIDDEN: controls but tab and newline, direction marks, invisible characters, lone surrogates.
const HIDDEN = new RegExp(
  "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff" +
  "\\ufff9-\\ufffb\\ud800-\\udfff\\u{e0000}-\\u{e007f}]", "gu");
const AT_FIRST = 1_800; // characters of a long text that are shown before it is asked for
const LONG = 2_400; // a text that is hardly longer is shown whole
const OWN_SCROLL = 20_000; // a text that long scrolls by itself

export const visible = (text) => text.replaceAll("\r\n", "\n").replace(HIDDEN, (found) =>
  `⟨U+${found.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);

export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

// The start of a text, cut where no character is broken and, if there is one near, where a line or a word ends.
function beginning(text) {
  const part = text.slice(0, AT_FIRST);
  const line = part.lastIndexOf("\n");
  const word = part.lastIndexOf(" ");
  const cut = line > AT_FIRST / 2 ? line : word > AT_FIRST - 80 ? word : AT_FIRST;
  return text.slice(0, cut).replace(/[\ud800-\udbff]$/, "");
}

// A block of text; of a long one the beginning, and a button that shows the rest. Only what is shown is in the page.
export function block(text, of, className = "text") {
  const made = element("div", "block");
  const shown = element("div", className);
  shown.dir = "auto";
  made.append(shown);
  if (!text.trim()) {
    shown.classList.add("empty");
    shown.textContent = text ? "(nothing but white space)" : "(empty)";
    return made;
  }
  const lines = text.split("\n", 41).length;
  if (text.length <= LONG && lines <= 40) {
    shown.textContent = visible(text);
    return made;
  }
  const start = lines > 40 ? beginning(text.split("\n", 28).join("\n")) : beginning(text);
  const more = element("button", "more");
  more.type = "button";
  const show = (whole) => {
    shown.textContent = whole ? visible(text) : visible(start);
    shown.classList.toggle("cut", !whole);
    shown.classList.toggle("own-scroll", whole && text.length > OWN_SCROLL);
    shown.tabIndex = whole && text.length > OWN_SCROLL ? 0 : -1;
    more.textContent = whole ? "Show less" : `Show all ${text.length.toLocaleString("en")} characters`;
    more.setAttribute("aria-label", `${more.textContent} of ${of}`);
    more.setAttribute("aria-expanded", String(whole));
  };
  more.addEventListener("click", () => show(more.getAttribute("aria-expanded") !== "true"));
  show(false);
  made.append(more);
  return made;
}

const ROLES = { user: "User", assistant: "Assistant", system: "Instructions to the assistant", tool: "Tool" };
const EARLIER_OPEN = 700; // characters of earlier turns that are shown without being asked for

const turn = (message, className, named = true) => {
  const made = element("div", `turn ${className}`);
  const role = ROLES[message.role] ?? visible(message.role);
  made.append(...(named ? [element("p", "role", role)] : []), block(message.content, `the turn of ${role}`));
  return made;
};

// A conversation: instructions subdued, earlier turns folded where they are long, what is to be answered prominent.
export function conversation(messages) {
  const last = messages.findLastIndex((message) => message.role === "user");
  const asked = last < 0 ? messages.length - 1 : last;
  const parts = [];
  const before = messages.slice(0, asked);
  if (before.length) {
    const length = before.reduce((sum, message) => sum + message.content.length, 0);
    const system = before.every((message) => message.role === "system");
    const folded = element("details", "earlier");
    folded.open = length <= EARLIER_OPEN;
    folded.append(element("summary", "", system ? ROLES.system : `Earlier in the conversation: ${before.length} ${before.length === 1 ? "turn" : "turns"}`));
    before.forEach((message) => folded.append(turn(message, message.role === "system" ? "system" : "before", !system)));
    parts.push(folded);
  }
  messages.slice(asked).forEach((message, at) => parts.push(turn(message, at === 0 ? "asked" : "after")));
  if (messages.length) parts.at(asked - messages.length).id = "asked";
  if (!messages.length) parts.push(element("p", "soft", "No prompt: the answers stand alone."));
  return parts;
}

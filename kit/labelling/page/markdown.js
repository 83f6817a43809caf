// A small part of Markdown as elements: headings, paragraphs, lists, quotes, code, bold, italics. All else stays text.

import { element, visible } from "./text.js";

const INLINE = /`([^`\n]+)`|\*\*(?=\S)([^\n]+?)(?<=\S)\*\*|(?<![\p{L}\p{N}*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\p{L}\p{N}*])|(?<![\p{L}\p{N}])_(?=\S)([^_\n]+?)(?<=\S)_(?![\p{L}\p{N}])|\[([^\]\n]{1,300})\]\(([^)\s]{1,2000})\)/gu;
const ITEM = /^(\s*)(?:[-*+]|(\d{1,9})[.)])\s+(.*)$/;
const MOST_DEPTH = 6;

function inline(parent, text, depth = 0) {
  let from = 0;
  for (const found of depth < MOST_DEPTH ? text.matchAll(INLINE) : []) {
    parent.append(text.slice(from, found.index));
    from = found.index + found[0].length;
    const [, code, bold, star, under, words, where] = found;
    if (code !== undefined) parent.append(element("code", "", code));
    else if (words !== undefined) parent.append(words, element("span", "where", ` (${where})`)); // where links lead is shown, and nothing leads there
    else {
      const made = element(bold !== undefined ? "strong" : "em");
      inline(made, bold ?? star ?? under, depth + 1);
      parent.append(made);
    }
  }
  parent.append(text.slice(from));
  return parent;
}

// The list that begins at `at`: items with deeper lists in them, lines that go on joined.
function list(lines, at, depth = 0) {
  const first = ITEM.exec(lines[at]);
  const indent = first[1].length;
  const made = element(first[2] === undefined ? "ul" : "ol");
  if (first[2] !== undefined) made.start = Number(first[2]);
  while (at < lines.length) {
    const found = ITEM.exec(lines[at]);
    if (!found || found[1].length < indent || (found[2] === undefined) !== (first[2] === undefined)) break;
    const item = element("li");
    const words = [found[3]];
    at += 1;
    while (at < lines.length && lines[at].trim() && !ITEM.test(lines[at])) words.push(lines[at++].trim());
    inline(item, words.join(" "));
    made.append(item);
    let next = at;
    while (next < lines.length && !lines[next].trim()) next += 1;
    const deeper = next < lines.length ? ITEM.exec(lines[next]) : null;
    if (deeper && deeper[1].length > indent && depth < MOST_DEPTH) {
      const [inner, after] = list(lines, next, depth + 1);
      item.append(inner);
      at = after;
      next = at;
      while (next < lines.length && !lines[next].trim()) next += 1;
    }
    if (next < lines.length && ITEM.test(lines[next])) at = next;
  }
  return [made, at];
}

export function markdown(text) {
  const lines = visible(text).replaceAll("\t", "    ").split("\n");
  const parts = [];
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    const heading = /^(#{1,6})\s+(.*?)\s*#*\s*$/.exec(line);
    const fence = /^\s*(```|~~~)/.exec(line);
    if (!line.trim()) at += 1;
    else if (fence) {
      const code = [];
      for (at += 1; at < lines.length && !lines[at].trim().startsWith(fence[1]); at += 1) code.push(lines[at]);
      at += 1;
      parts.push(element("pre", "", code.join("\n")));
    } else if (heading) {
      parts.push(inline(element(`h${Math.min(6, heading[1].length + 2)}`), heading[2]));
      at += 1;
    } else if (ITEM.test(line)) {
      const [made, after] = list(lines, at);
      parts.push(made);
      at = after;
    } else if (/^\s*>/.test(line)) {
      const words = [];
      for (; at < lines.length && /^\s*>/.test(lines[at]); at += 1) words.push(lines[at].replace(/^\s*>\s?/, ""));
      const quote = element("blockquote");
      inline(quote, words.join(" "));
      parts.push(quote);
    } else if (/^\s*([-*_])(\s*\1){2,}\s*$/.test(line)) {
      parts.push(element("hr"));
      at += 1;
    } else {
      const words = [line.trim()];
      for (at += 1; at < lines.length && lines[at].trim() && !ITEM.test(lines[at]) && !/^(#{1,6}\s|\s*>|\s*(```|~~~))/.test(lines[at]); at += 1) {
        words.push(lines[at].trim());
      }
      parts.push(inline(element("p"), words.join(" ")));
    }
  }
  parts.forEach((part) => { part.dir = "auto"; });
  return parts;
}

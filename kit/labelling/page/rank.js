// The list of answers of one item: shown in its order, moved by buttons, by keys and by dragging, tied with each other.

import { draggable } from "./drag.js";
import * as order from "./order.js";
import { block } from "./text.js";

export const letter = (answer) => String.fromCharCode(65 + answer);
const names = (answers) => answers.map(letter).join(" and ");

export class Ranking {
  // `changed(groups)` is called after every change by the person; `say` speaks to screen readers.
  constructor(list, template, { changed, say }) {
    Object.assign(this, { list, template, changed, say, groups: [], items: [], current: null, fixed: true });
    this.drag = draggable(list, {
      begin: () => list.classList.add("touched"),
      hover: (item, at) => this.number(order.dropped(this.groups, this.answerOf(item), at)),
      drop: (item, at) => this.set(order.dropped(this.groups, this.answerOf(item), at), this.answerOf(item), false),
      cancel: () => this.render(),
    });
    list.addEventListener("focusin", (event) => this.point(this.answerOf(event.target.closest("li"))));
    list.addEventListener("click", (event) => this.clicked(event));
  }

  answerOf(item) {
    return this.items.indexOf(item);
  }

  // Show an item's answers. With `choosing` (two answers side by side) they stay where they are.
  open(texts, groups, touched, choosing) {
    this.choosing = choosing;
    this.list.classList.toggle("pair", choosing);
    this.current = null;
    this.items = texts.map((text, answer) => {
      const item = this.template.content.firstElementChild.cloneNode(true);
      item.querySelector(".name").textContent = `Answer ${letter(answer)}`;
      const body = item.querySelector(".body");
      body.append(block(text, `answer ${letter(answer)}`));
      body.firstElementChild.firstElementChild.id = `answer-${answer}`; // read out with the answer
      item.setAttribute("aria-describedby", `answer-${answer}`);
      item.querySelector(".up").setAttribute("aria-label", `Move answer ${letter(answer)} up`);
      item.querySelector(".down").setAttribute("aria-label", `Move answer ${letter(answer)} down`);
      if (choosing) item.querySelectorAll(".between, .up, .down, .handle, .place").forEach((part) => part.remove());
      return item;
    });
    this.list.replaceChildren(...this.items);
    this.show(groups, touched);
  }

  show(groups, touched) {
    this.groups = groups;
    this.touched = touched;
    this.render();
  }

  // Take over an order the person made; `moved` keeps the focus and is spoken.
  set(groups, moved, smoothly = true) {
    const before = smoothly ? this.items.map((item) => item.getBoundingClientRect().top) : null;
    this.groups = groups;
    this.touched = true;
    this.render();
    if (before) this.glide(before);
    if (moved !== null) {
      this.focus(moved);
      this.say(this.told(moved));
    }
    this.changed(groups);
  }

  render() {
    const flat = this.choosing ? this.items.map((_, answer) => answer) : this.groups.flat();
    const held = document.activeElement;
    flat.forEach((answer, at) => {
      if (this.list.children[at] !== this.items[answer]) this.list.insertBefore(this.items[answer], this.list.children[at] ?? null);
    });
    if (held && held !== document.activeElement && this.list.contains(held)) held.focus({ preventScroll: true });
    this.list.classList.toggle("touched", this.touched);
    flat.forEach((answer, at) => {
      const item = this.items[answer];
      item.setAttribute("aria-posinset", at + 1);
      item.setAttribute("aria-setsize", flat.length);
      if (this.choosing) return;
      const above = flat[at - 1];
      const tie = item.querySelector(".tie");
      const tied = at > 0 && this.groups.some((group) => group.includes(answer) && group.includes(above));
      item.classList.toggle("tied", tied);
      tie.setAttribute("aria-pressed", String(tied));
      tie.querySelector("span").textContent = tied ? "tied" : "tie";
      if (at > 0) tie.setAttribute("aria-label", `Tie answers ${names([above, answer])}`);
      tie.hidden = at === 0;
      item.querySelector(".up").disabled = at === 0 && !this.shares(answer);
      item.querySelector(".down").disabled = at === flat.length - 1 && !this.shares(answer);
    });
    this.number(this.groups);
    this.point(this.current);
  }

  shares(answer) {
    return this.groups.find((group) => group.includes(answer)).length > 1;
  }

  // The places as they are, or as they would be at a drop.
  number(groups) {
    const ranks = order.ranksOf(groups);
    this.items.forEach((item, answer) => {
      const first = this.choosing && this.touched && ranks[answer] === 1;
      item.classList.toggle("chosen", first && groups.length > 1);
      item.classList.toggle("equal", first && groups.length === 1);
      if (!this.choosing) item.querySelector(".place").textContent = this.touched || this.drag.busy ? ranks[answer] : "–";
      item.setAttribute("aria-label", this.told(answer, groups));
    });
  }

  told(answer, groups = this.groups) {
    if (!this.touched) return `Answer ${letter(answer)}, ${this.choosing ? "not compared yet" : "no place yet"}`;
    const rank = order.ranksOf(groups)[answer];
    if (this.choosing) return `Answer ${letter(answer)}, ${groups.length === 1 ? "equal" : rank === 1 ? "better" : "worse"}`;
    const others = groups[rank - 1].filter((one) => one !== answer);
    return `Answer ${letter(answer)}, place ${rank} of ${groups.length}${others.length ? `, tied with ${names(others)}` : ""}`;
  }

  // Only the answer one is at has its buttons in the order of Tab; the list is left by one more Tab.
  point(answer) {
    this.current = answer === null || answer < 0 ? null : answer;
    const at = this.current ?? this.groups.flat()[0];
    this.items.forEach((item, one) => {
      item.tabIndex = one === at ? 0 : -1;
      item.classList.toggle("current", one === this.current);
      item.querySelectorAll("button").forEach((button) => { button.tabIndex = one === at ? 0 : -1; });
    });
  }

  focus(answer) {
    const item = this.items[answer];
    if (!item.contains(document.activeElement)) item.focus({ preventScroll: true });
    item.scrollIntoView({ block: "nearest" });
  }

  // The focus one answer up or down; from nowhere to the first one.
  step(by) {
    const flat = this.choosing ? this.items.map((_, answer) => answer) : this.groups.flat();
    const at = this.current === null || !this.list.contains(document.activeElement) ? -1 : flat.indexOf(this.current);
    const to = at < 0 ? 0 : Math.min(flat.length - 1, Math.max(0, at + by));
    this.items[flat[to]].focus({ preventScroll: true });
    this.focus(flat[to]);
  }

  // A key for an answer while one is at none: go to the first, so that the next key does it.
  begin() {
    this.step(1);
    this.say("Choose an answer first, with the arrow keys.");
  }

  move(by) {
    if (this.current === null) return this.step(by);
    const next = order.moved(this.groups, this.current, by);
    return this.set(next, this.current);
  }

  place(place) {
    if (place > this.items.length) this.say(`There are ${this.items.length} places.`);
    else if (this.current === null) this.begin();
    else this.set(order.placed(this.groups, this.current, place), this.current);
  }

  tie() {
    if (this.current === null) this.begin();
    else if (this.groups.flat()[0] === this.current) this.say("There is no answer above this one.");
    else this.set(order.tied(this.groups, this.current), this.current);
  }

  clicked(event) {
    const button = event.target.closest("button");
    const answer = this.answerOf(event.target.closest("li"));
    if (!button || answer < 0) return;
    this.point(answer);
    if (button.matches(".up")) this.set(order.moved(this.groups, answer, -1), answer);
    if (button.matches(".down")) this.set(order.moved(this.groups, answer, 1), answer);
    if (button.matches(".tie")) this.set(order.tied(this.groups, answer), answer);
    if (button.disabled) this.items[answer].focus({ preventScroll: true });
  }

  // From where the answers were to where they are, unless the person wants no motion.
  glide(before) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    this.items.forEach((item, answer) => {
      const way = before[answer] - item.getBoundingClientRect().top;
      if (Math.abs(way) > 1) item.animate([{ transform: `translateY(${way}px)` }, { transform: "none" }], { duration: 180, easing: "ease-out" });
    });
  }
}

// Dragging the items of a list by mouse, touch or pen. The list stays as it is until the drop; shifts are transforms.
// While one is dragged all are folded to a few lines, so that nine long answers fit a screen.

const BEGIN_PX = 5;
const EDGE_PX = 90; // from where the page scrolls by itself
const FASTEST_PX = 18; // a frame

// `drop(item, at)`: put it at that place, counted without it. `hover(item, at)`: that is where it would go now.
export function draggable(list, { begin, hover, drop, cancel }) {
  let drag = null;

  const start = () => {
    const { item, pointer } = drag;
    drag.begun = true;
    begin(item);
    const before = item.getBoundingClientRect();
    list.classList.add("sorting");
    item.classList.add("dragged");
    const items = [...list.children];
    const after = item.getBoundingClientRect();
    drag.grab = Math.min(Math.max(0, drag.startY - before.top), after.height - 8);
    scrollBy({ top: after.top - (pointer.clientY - drag.grab), behavior: "instant" });
    drag.boxes = items.map((one) => {
      const box = one.getBoundingClientRect();
      return { item: one, top: box.top + scrollY, height: box.height };
    });
    drag.from = items.indexOf(item);
    drag.at = drag.from;
    requestAnimationFrame(scroll);
    follow();
  };

  const follow = () => {
    const { boxes, from, item } = drag;
    const top = drag.pointer.clientY + scrollY - drag.grab;
    const bottom = top + boxes[from].height;
    item.style.transform = `translateY(${top - boxes[from].top}px)`;
    const at = boxes.filter((box, number) => number !== from &&
      (number < from ? box.top + box.height / 2 < top : box.top + box.height / 2 < bottom)).length;
    boxes.forEach((box, number) => {
      if (number === from) return;
      const shift = number < from && number >= at ? boxes[from].height : number > from && number <= at ? -boxes[from].height : 0;
      box.item.style.transform = shift ? `translateY(${shift}px)` : "";
    });
    if (at !== drag.at) {
      drag.at = at;
      hover(item, at);
    }
  };

  const scroll = () => {
    if (!drag?.begun) return;
    const y = drag.pointer.clientY;
    const over = y < EDGE_PX ? y - EDGE_PX : y > innerHeight - EDGE_PX ? y - (innerHeight - EDGE_PX) : 0;
    if (over) {
      scrollBy({ top: Math.sign(over) * Math.min(FASTEST_PX, Math.abs(over) / 4), behavior: "instant" });
      follow();
    }
    requestAnimationFrame(scroll);
  };

  const end = (keeps) => {
    const { item, at, from, begun, pointer, grab, handle } = drag;
    drag = null;
    if (handle.hasPointerCapture(pointer.pointerId)) handle.releasePointerCapture(pointer.pointerId);
    if (!begun) return;
    [...list.children].forEach((one) => { one.style.transform = ""; });
    list.classList.remove("sorting");
    item.classList.remove("dragged");
    if (keeps && at !== from) drop(item, at);
    else cancel(item);
    scrollBy({ top: item.getBoundingClientRect().top - (pointer.clientY - grab), behavior: "instant" });
  };

  list.addEventListener("pointerdown", (event) => {
    const handle = event.target.closest(event.pointerType === "touch" ? ".handle" : ".head");
    if (!handle || drag || event.button !== 0 || event.target.closest("button")) return;
    event.preventDefault();
    const item = handle.closest("li");
    item.focus({ preventScroll: true });
    drag = { item, handle, pointer: event, startY: event.clientY, begun: false };
    handle.setPointerCapture(event.pointerId);
  });
  list.addEventListener("pointermove", (event) => {
    if (!drag || event.pointerId !== drag.pointer.pointerId) return;
    drag.pointer = event;
    if (!drag.begun && Math.abs(event.clientY - drag.startY) >= BEGIN_PX) start();
    if (drag?.begun) follow();
  });
  list.addEventListener("pointerup", (event) => { if (drag?.pointer.pointerId === event.pointerId) end(true); });
  list.addEventListener("pointercancel", (event) => { if (drag?.pointer.pointerId === event.pointerId) end(false); });
  list.addEventListener("lostpointercapture", (event) => { if (drag?.pointer.pointerId === event.pointerId) end(false); });
  list.addEventListener("contextmenu", (event) => { if (drag || event.target.closest(".handle")) event.preventDefault(); });
  addEventListener("keydown", (event) => {
    if (drag && event.key === "Escape") {
      event.preventDefault();
      end(false);
    }
  }, true);
  return { get busy() { return Boolean(drag?.begun); } };
}

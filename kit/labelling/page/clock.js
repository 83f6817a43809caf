// Seconds that a person was at an item: not while the tab is hidden, and of a pause without a touch the first minute.

const IDLE_MS = 60_000;
const SIGNS = ["pointerdown", "pointermove", "keydown", "wheel", "scroll", "touchmove", "input"];

export class Clock {
  constructor() {
    this.milliseconds = 0;
    this.last = document.hidden ? null : performance.now();
    for (const sign of SIGNS) addEventListener(sign, () => this.tick(), { passive: true, capture: true });
    document.addEventListener("visibilitychange", () => {
      this.tick();
      this.last = document.hidden ? null : performance.now();
    });
  }

  // Begin another item, at what was counted of it before.
  start(seconds) {
    this.milliseconds = 1000 * seconds;
    this.last = document.hidden ? null : performance.now();
  }

  tick() {
    if (this.last === null) return;
    const now = performance.now();
    this.milliseconds += Math.min(now - this.last, IDLE_MS);
    this.last = now;
  }

  get seconds() {
    this.tick();
    return Math.round(this.milliseconds / 100) / 10;
  }
}

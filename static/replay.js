// Answers that were made one after another, shown next to each other at the pace they came. The server renders them
// finished; this file takes their text back and gives it out again. Without it, or where motion is not wanted, they
// are there as a whole.

import * as markdown from "./markdown.js";

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** One answer: its text by characters as the server counts them, and how many of them had come when. */
class Column {
  constructor(article) {
    this.article = article;
    this.points = JSON.parse(article.dataset.pace);
    this.even = "even" in article.dataset;
    this.parts = $$(".text", article).map((source) => ({ source, characters: [...source.textContent], shown: 0 }));
    this.length = this.parts.reduce((sum, part) => sum + part.characters.length, 0);
  }

  get end() {
    return this.points.at(-1)?.[0] ?? 0;
  }

  /** Characters that had come after `ms`. What was kept of a pace is steps; an even one is a line. */
  reached(ms) {
    if (ms >= this.end) return this.length;
    const after = this.points.findIndex(([at]) => at > ms);
    if (after === 0) return 0;
    const [[from, had], [to, has]] = this.points.slice(after - 1, after + 1);
    return this.even ? had + Math.floor(((has - had) * (ms - from)) / (to - from)) : had;
  }

  clear() {
    for (const part of this.parts) {
      const root = markdown.prose(part.source);
      root.replaceChildren();
      Object.assign(part, { shown: 0, writer: markdown.stream(root) });
    }
    this.article.toggleAttribute("data-waiting", this.length > 0);
  }

  show(ms) {
    let left = this.reached(ms);
    for (const part of this.parts) {
      const to = Math.min(left, part.characters.length);
      left -= to;
      if (to <= part.shown) continue;
      part.writer.write(part.characters.slice(part.shown, to).join(""));
      part.shown = to;
      this.article.removeAttribute("data-waiting");
    }
  }

  whole() {
    for (const part of this.parts) if (part.characters.length) markdown.render(part.characters.join(""), markdown.prose(part.source));
    this.article.removeAttribute("data-waiting");
  }
}

class Replay {
  constructor(root) {
    this.root = root;
    this.columns = $$("[data-replayed]", root).map((article) => new Column(article));
    this.end = Math.max(0, ...this.columns.map((column) => column.end));
    this.at = this.end;
    this.speed = 1;
    this.frame = 0;
    $("[data-play]", root).addEventListener("click", () => (this.frame ? this.pause() : this.play()));
    $("[data-skip]", root).addEventListener("click", () => this.skip());
    for (const button of $$("[data-speed]", root)) button.addEventListener("click", () => this.pace(button));
    void this.begin();
  }

  /** What shows finished answers is loaded first: it would come into the middle of what plays. */
  async begin() {
    await markdown.ready();
    this.whole();
    $(".replay-controls", this.root).hidden = !this.end;
    if (this.end && !calm.matches) this.play();
  }

  play() {
    if (this.at >= this.end) {
      this.at = 0;
      for (const column of this.columns) column.clear();
    }
    this.last = performance.now();
    this.frame = requestAnimationFrame((now) => this.step(now));
    this.tell();
  }

  step(now) {
    if (!this.root.isConnected) return;
    this.at += Math.max(0, now - this.last) * this.speed;
    this.last = now;
    if (this.at >= this.end) return this.skip();
    for (const column of this.columns) column.show(this.at);
    this.frame = requestAnimationFrame((later) => this.step(later));
    this.tell();
  }

  pause() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    this.tell();
  }

  skip() {
    this.at = this.end;
    this.pause();
    this.whole();
  }

  whole() {
    for (const column of this.columns) column.whole();
    this.tell();
  }

  pace(chosen) {
    this.speed = Number(chosen.dataset.speed);
    for (const button of $$("[data-speed]", this.root)) button.setAttribute("aria-pressed", String(button === chosen));
  }

  tell() {
    const done = this.at >= this.end;
    $("[data-play]", this.root).textContent = this.frame ? "Pause" : done ? "Play again" : "Play";
    $("[data-skip]", this.root).disabled = done;
    $("[data-clock]", this.root).textContent = `${(Math.min(this.at, this.end) / 1000).toFixed(1)} of ${(this.end / 1000).toFixed(1)} s`;
    this.root.dataset.state = this.frame ? "playing" : done ? "whole" : "paused";
  }
}

function adopt(root) {
  for (const one of [...(root.matches?.("[data-replay]") ? [root] : []), ...$$("[data-replay]", root)]) {
    if ("adopted" in one.dataset) continue;
    one.dataset.adopted = "";
    new Replay(one);
  }
}

document.addEventListener("htmx:after:swap", () => adopt(document.body));
adopt(document.body);

// The virtual list of steps: as many rows in the document as fit on the screen, whatever the length of the run.

import { duration, make } from "./page.js";
import { Scale } from "./steps.js";

const HEIGHT = 34;
const SPARE = 6;
const INDENT = 18;
const MARKED = new Set(["cached", "in doubt", "not done", "retrying"]);

export class Timeline {
  /** `open` is called with the seq of a step that the reader chooses. */
  constructor(frame, sheet, steps, open) {
    this.frame = frame;
    this.sheet = sheet;
    this.steps = steps;
    this.open = open;
    this.rows = [];
    this.pool = [];
    this.find = "";
    this.show = "";
    this.chosen = 0;
    this.asked = false;
    this.dirty = true;
    frame.addEventListener("scroll", () => this.draw(), { passive: true });
    frame.addEventListener("keydown", (event) => this.key(event));
    sheet.addEventListener("click", (event) => this.click(event));
    new ResizeObserver(() => this.draw()).observe(frame);
  }

  /** Steps, filter or closed branches have changed; drawn once per frame. */
  changed() {
    this.dirty = true;
    this.draw();
  }

  draw() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.paint();
    });
  }

  paint() {
    if (this.dirty) {
      this.dirty = false;
      this.rows = this.steps.rows(this.find, this.show);
      this.scale = new Scale(this.steps.column, Date.now());
      this.sheet.style.height = `${this.rows.length * HEIGHT}px`;
    }
    const height = Math.min(this.frame.clientHeight || 560, 1200);
    const first = Math.max(0, Math.floor(this.frame.scrollTop / HEIGHT) - SPARE);
    const last = Math.min(this.rows.length, Math.ceil((this.frame.scrollTop + height) / HEIGHT) + SPARE);
    if (!this.sheet.classList.contains("drawn")) {
      this.sheet.classList.add("drawn");
      this.sheet.replaceChildren();
    }
    while (this.pool.length < last - first) this.pool.push(this.line());
    this.pool.forEach((line, offset) => {
      const position = first + offset;
      line.element.hidden = position >= last;
      if (position < last) this.fill(line, position);
    });
  }

  line() {
    const twist = make("button", "twist");
    twist.type = "button";
    twist.tabIndex = -1;
    const dot = make("i", "dot");
    const label = make("span", "label");
    const marks = make("span", "marks");
    const bar = make("i");
    const took = make("span", "took num");
    const element = make("div", "row", [make("span", "name", [twist, dot, label]), marks, make("span", "track", bar), took]);
    element.setAttribute("role", "treeitem");
    this.sheet.append(element);
    return { element, twist, dot, label, marks, bar, took };
  }

  fill(line, position) {
    const [index, depth] = this.rows[position];
    const { column } = this.steps;
    const seq = column.seq[index];
    const state = this.steps.state(index);
    const css = state.replace(" ", "-");
    const start = column.started[index];
    const end = column.ended[index];
    const branch = this.steps.children.has(seq) && !this.find && !this.show;
    const closed = this.steps.closed.has(seq);
    line.element.style.transform = `translateY(${position * HEIGHT}px)`;
    line.element.dataset.seq = seq;
    line.element.classList.toggle("chosen", seq === this.chosen);
    line.element.setAttribute("aria-level", depth + 1);
    if (branch) line.element.setAttribute("aria-expanded", String(!closed));
    else line.element.removeAttribute("aria-expanded");
    line.element.firstChild.style.paddingLeft = `${Math.min(depth, 8) * INDENT}px`;
    line.twist.textContent = branch ? (closed ? "▸" : "▾") : "";
    line.twist.setAttribute("aria-label", closed ? "Open" : "Close");
    line.dot.className = `dot ${css}`;
    line.dot.title = state;
    line.label.textContent = column.name[index];
    line.label.title = column.name[index];
    line.marks.replaceChildren(...this.marks(index, state));
    line.took.textContent = end === null ? (state === "running" ? "…" : "") : duration((end - start) / 1000);
    const from = this.scale.at(start);
    line.bar.className = css;
    line.bar.style.left = `${from * 100}%`;
    line.bar.style.width = `${Math.max(0, this.scale.at(end ?? Date.now()) - from) * 100}%`;
  }

  marks(index, state) {
    const { column } = this.steps;
    const marks = [];
    if (column.effect[index]) marks.push(make("b", "mark effect", "effect"));
    if (column.kind[index] === "model") marks.push(make("b", "mark model", column.tokens[index] ? `${column.tokens[index]} tokens` : "model"));
    if (MARKED.has(state)) marks.push(make("b", `mark ${state.replace(" ", "-")}`, state));
    if (column.attempts[index] > 1) marks.push(make("b", "mark", `${column.attempts[index]}×`));
    return marks;
  }

  click(event) {
    const element = event.target.closest(".row[data-seq]");
    if (element === null) return;
    const seq = Number(element.dataset.seq);
    if (event.target.closest(".twist")?.textContent) this.toggle(seq);
    else this.choose(seq);
  }

  toggle(seq) {
    if (!this.steps.closed.delete(seq)) this.steps.closed.add(seq);
    this.changed();
  }

  choose(seq) {
    this.chosen = seq;
    this.open(seq);
    this.draw();
  }

  key(event) {
    const position = this.rows.findIndex(([index]) => this.steps.column.seq[index] === this.chosen);
    const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (move) {
      const next = Math.min(this.rows.length - 1, Math.max(0, position + move));
      if (this.rows.length === 0) return;
      event.preventDefault();
      this.choose(this.steps.column.seq[this.rows[next][0]]);
      this.reveal(next);
    } else if ((event.key === "ArrowLeft" || event.key === "ArrowRight") && this.chosen) {
      if (this.steps.closed.has(this.chosen) === (event.key === "ArrowRight") && this.steps.children.has(this.chosen)) this.toggle(this.chosen);
    } else if (event.key === "Escape") {
      this.choose(0);
    }
  }

  reveal(position) {
    const top = position * HEIGHT;
    const { scrollTop, clientHeight } = this.frame;
    if (top < scrollTop) this.frame.scrollTop = top;
    else if (top + HEIGHT > scrollTop + clientHeight) this.frame.scrollTop = top + HEIGHT - clientHeight;
  }

  /** Scroll to a step, if it is to be seen at all. */
  show_step(seq) {
    const position = this.rows.findIndex(([index]) => this.steps.column.seq[index] === seq);
    if (position >= 0) this.reveal(position);
  }
}

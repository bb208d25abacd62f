// The steps of a run in columns, as a tree; filtered and flattened into the rows that are to be seen.

const COLUMNS = ["seq", "parent", "kind", "name", "event", "started", "ended", "attempts", "effect", "tokens"];
const WORDED = ["kind", "name", "event"];
const OPEN = new Set(["started", "intent", "attempt", "rolling_back"]);
const BAD = new Set(["failed", "unknown", "not_done", "attempt", "rolling_back", "rolled_back"]);
const WORDS = {
  started: "running",
  intent: "running",
  attempt: "retrying",
  not_done: "not done",
  unknown: "in doubt",
  rolling_back: "rolling back",
  rolled_back: "rolled back",
};

export class Steps {
  constructor() {
    this.column = Object.fromEntries(COLUMNS.map((name) => [name, []]));
    this.indexOf = new Map();
    this.children = new Map(); // seq of the parent -> indices, in order
    this.closed = new Set();
    this.tokens = 0;
    this.final = false;
  }

  get length() {
    return this.column.seq.length;
  }

  /** Take in columns from the server; returns the indices that changed. */
  merge(columns) {
    const changed = [];
    columns.seq.forEach((seq, position) => {
      let index = this.indexOf.get(seq);
      if (index === undefined) {
        index = this.length;
        this.indexOf.set(seq, index);
        const parent = columns.parent[position];
        if (!this.children.has(parent)) this.children.set(parent, []);
        this.children.get(parent).push(index);
      } else {
        this.tokens -= this.column.tokens[index];
      }
      for (const name of COLUMNS) {
        const value = columns[name][position];
        this.column[name][index] = WORDED.includes(name) ? columns.words[name][value] : value;
      }
      this.tokens += this.column.tokens[index];
      changed.push(index);
    });
    return changed;
  }

  /** How a step stands, in a word. */
  state(index) {
    const event = this.column.event[index];
    if (OPEN.has(event) && this.final) return event === "intent" ? "in doubt" : "stopped";
    if (event === "completed" && this.column.kind[index] === "transaction") return "committed";
    return WORDS[event] ?? event;
  }

  fits(index, find, show) {
    const { name, event, effect, kind } = this.column;
    if (find && !name[index].toLowerCase().includes(find)) return false;
    switch (show) {
      case "open": return OPEN.has(event[index]);
      case "bad": return BAD.has(event[index]);
      case "effect": return effect[index] === 1;
      case "model": return kind[index] === "model";
      default: return true;
    }
  }

  /** The rows to be seen: [index, depth] of a filtered list, or of the tree with its closed branches left out. */
  rows(find, show) {
    const out = [];
    if (find || show) {
      for (let index = 0; index < this.length; index += 1) if (this.fits(index, find, show)) out.push([index, 0]);
      return out;
    }
    const walk = [[this.children.get(0) ?? [], 0, 0]];
    while (walk.length) {
      const level = walk[walk.length - 1];
      const [siblings, position, depth] = level;
      if (position >= siblings.length) {
        walk.pop();
        continue;
      }
      level[1] += 1;
      const index = siblings[position];
      const seq = this.column.seq[index];
      out.push([index, depth]);
      if (this.children.has(seq) && !this.closed.has(seq)) walk.push([this.children.get(seq), 0, depth + 1]);
    }
    return out;
  }
}

/** Places times on a line from 0 to 1. Stretches in which nothing ran are drawn short: a run may wait for weeks. */
export class Scale {
  constructor(column, now) {
    const spans = [];
    for (let index = 0; index < column.seq.length; index += 1) {
      spans.push([column.started[index], Math.max(column.started[index], column.ended[index] ?? now)]);
    }
    spans.sort((first, second) => first[0] - second[0]);
    const busy = [];
    for (const [start, end] of spans) {
      const last = busy[busy.length - 1];
      if (last && start <= last[1]) last[1] = Math.max(last[1], end);
      else busy.push([start, end]);
    }
    const worked = busy.reduce((sum, [start, end]) => sum + end - start, 0) || 1;
    const most = Math.max(worked * 0.04, 1);
    this.points = []; // [time, place]
    let place = 0;
    busy.forEach(([start, end], number) => {
      if (number) place += Math.min(start - busy[number - 1][1], most);
      this.points.push([start, place]);
      place += end - start;
      this.points.push([end, place]);
    });
    this.whole = place || 1;
  }

  at(moment) {
    const { points } = this;
    if (!points.length) return 0;
    let low = 0;
    let high = points.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle][0] < moment) low = middle + 1;
      else high = middle;
    }
    const [time, place] = points[low];
    if (low === 0 || moment >= time) return place / this.whole;
    const [before, from] = points[low - 1];
    return (from + ((place - from) * (moment - before)) / (time - before || 1)) / this.whole;
  }
}

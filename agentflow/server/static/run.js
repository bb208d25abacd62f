// The page of one run: its summary, its waits, its steps and its log, live.

import { clock, duration, fetchJSON, listen, make, soon, stateMark, time, trouble } from "./page.js";
import { showHistory } from "./history.js";
import { showStep } from "./panel.js";
import { Steps } from "./steps.js";
import { Timeline } from "./timeline.js";

const page = document.getElementById("run");
const id = page.dataset.id;
const isServed = page.dataset.served === "yes";
const wasFinal = page.dataset.final === "yes";
const past = document.getElementById("history");
const panel = document.getElementById("panel");
const find = document.getElementById("find");
const show = document.getElementById("show");
const LOG_LIMIT = 300;

const steps = new Steps();
steps.final = wasFinal;
const timeline = new Timeline(document.getElementById("timeline"), document.getElementById("sheet"), steps, openStep);

// -- what the address says
const query = new URLSearchParams(location.search);
find.value = query.get("find") ?? "";
show.value = query.get("show") ?? "";
timeline.find = find.value.toLowerCase();
timeline.show = show.value;

function remember(name, value) {
  const now = new URLSearchParams(location.search);
  if (value) now.set(name, value);
  else now.delete(name);
  history.replaceState(null, "", now.size ? `?${now}` : location.pathname);
}

function openStep(seq) {
  remember("step", seq || "");
  showStep(panel, {id, isServed}, seq, () => timeline.choose(0));
}

find.addEventListener("input", () => { timeline.find = find.value.toLowerCase(); remember("find", find.value); timeline.changed(); });
show.addEventListener("change", () => { timeline.show = show.value; remember("show", show.value); timeline.changed(); });

// -- steps
const refreshPanel = soon(() => { if (timeline.chosen) showStep(panel, {id, isServed}, timeline.chosen, () => timeline.choose(0)); });

function takeSteps(columns) {
  const changed = steps.merge(columns);
  document.getElementById("step-count").textContent = steps.length;
  document.getElementById("token-count").textContent = steps.tokens ? steps.tokens.toLocaleString() : "–";
  document.getElementById("no-steps").hidden = steps.length > 0;
  const chosen = steps.indexOf.get(timeline.chosen);
  if (chosen !== undefined && changed.includes(chosen)) refreshPanel();
  timeline.changed();
}

// -- the run itself
const KINDS = { approval: "Approval", in_doubt: "In doubt", divergence: "Divergence", input: "Question", event: "Event", timer: "Timer", slot: "Slot" };
const FOR_PEOPLE = new Set(["approval", "in_doubt", "divergence", "input"]);

function waitLine(wait) {
  const person = FOR_PEOPLE.has(wait.kind);
  const line = make("a", person ? "wait person" : "wait", [
    make("span", `kind ${wait.kind}`, KINDS[wait.kind] ?? wait.kind), make("strong", "", wait.name), make("span", "faint", wait.message),
  ]);
  if (wait.due) line.append(make("span", "faint", ["until ", time(wait.due)]));
  if (person) {
    line.href = `/approvals/${wait.id}`;
    line.append(make("span", "go", "Decide"));
  }
  return line;
}

function showNow(run) {
  const strip = document.getElementById("now");
  const shown = run.executing ?? [];
  strip.hidden = shown.length === 0;
  const chips = shown.map((step) => {
    const took = make("span", "num", duration(Math.max(0, (Date.now() - Date.parse(step.since)) / 1000)));
    took.dataset.since = step.since;
    return make("span", "chip", [make("i", "dot running"), step.name, took]);
  });
  const more = run.executing_count - shown.length;
  strip.replaceChildren(make("strong", "", "Now"), ...chips, more > 0 ? make("span", "faint", `and ${more} more`) : "");
}

function takeRun(run) {
  showNow(run);
  document.getElementById("run-state").replaceChildren(stateMark(run.state_name ?? run.state));
  document.getElementById("run-message").textContent = ["FAILED", "CRASHED"].includes(run.state) ? "" : run.message;
  document.getElementById("cancel").hidden = Boolean(run.ended) || run.state === "CANCELLING";
  document.getElementById("retry").hidden = !isServed || !["FAILED", "CRASHED", "CANCELLED"].includes(run.state);
  past.hidden = run.life < 2 && past.dataset.forked !== "yes";
  const waits = document.getElementById("waits");
  waits.replaceChildren(...run.waits.map(waitLine));
  waits.hidden = run.waits.length === 0;
  if (run.started) document.getElementById("run-started").replaceChildren(time(run.started));
  const took = document.getElementById("run-duration");
  if (run.ended) {
    delete took.dataset.since;
    took.textContent = duration(run.elapsed_s) || "–";
  } else if (run.started) {
    took.dataset.since = run.started;
  }
}

async function takeEnd() {
  steps.final = true;
  timeline.changed();
  const none = document.getElementById("no-steps");
  none.textContent = "Nothing was recorded.";
  if (wasFinal) return;
  const outcome = document.getElementById("outcome");
  try {
    const run = await fetchJSON(`/api/runs/${id}`);
    if (run.error) {
      const details = make("details", "", [make("summary", "", "Traceback"), make("pre", "", run.error.traceback)]);
      const words = make("p", "", [make("strong", "", run.error.type), run.error.text ? `: ${run.error.text}` : ""]);
      outcome.replaceChildren(make("h2", "", "Error"), make("div", "failure", run.error.traceback ? [words, details] : [words]));
    } else if (run.state === "COMPLETED") {
      const text = typeof run.result === "string" ? run.result : JSON.stringify(run.result, null, 2);
      outcome.replaceChildren(make("figure", "value", [make("figcaption", "", "Result"), make("pre", "", text)]));
    }
  } catch (error) {
    trouble(`The run has ended, and its result could not be read: ${error.message}.`);
  }
}

// -- its lives
past.addEventListener("toggle", () => { if (past.open) showHistory(document.getElementById("history-body"), id); });

// -- the log: the last lines only
const logs = document.getElementById("logs");

function takeLogs(lines) {
  const atEnd = logs.scrollTop + logs.clientHeight >= logs.scrollHeight - 40;
  for (const line of lines.slice(-LOG_LIMIT)) {
    const at = make("time", "", clock(line.at));
    at.dateTime = line.at;
    at.title = line.at;
    const words = make("span", "", [line.step ? make("i", "", `${line.step} `) : "", line.text]);
    words.title = line.source;
    logs.append(make("div", line.level.toLowerCase(), [at, make("b", "", line.level), words]));
  }
  while (logs.childElementCount > LOG_LIMIT) logs.firstChild.remove();
  if (atEnd) logs.scrollTop = logs.scrollHeight;
}

// -- first the skeleton, then what changes from there on
let position = "";
try {
  const first = await fetchJSON(`/api/runs/${id}/steps?shape=columns`);
  takeSteps(first.columns);
  position = `${first.last}.0`;
  const step = Number(query.get("step"));
  if (step) {
    timeline.choose(step);
    requestAnimationFrame(() => requestAnimationFrame(() => timeline.show_step(step)));
  }
  trouble("");
} catch (error) {
  trouble(`The steps could not be read: ${error.message}.`);
}
listen({ query: { run: id }, after: () => position }, { steps: takeSteps, logs: takeLogs, run: takeRun, end: takeEnd });
page.dataset.ready = "yes";

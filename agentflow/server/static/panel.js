// One step, opened: what is recorded of it, read only now.

import { duration, fetchJSON, make, time } from "./page.js";

const text = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

function fact(label, content) {
  return make("div", "", [make("dt", "", label), make("dd", "", content)]);
}

function block(label, value) {
  return [make("h3", "", label), make("pre", "", text(value))];
}

function failure(error) {
  const box = make("div", "failure", make("p", "", [make("strong", "", error.type), error.text ? `: ${error.text}` : ""]));
  if (error.traceback) box.append(make("details", "", [make("summary", "", "Traceback"), make("pre", "", error.traceback)]));
  return box;
}

function content(step, run) {
  const detail = step.detail ?? {};
  const facts = [
    fact("Kind", step.effect ? `${step.kind}, side effect` : step.kind),
    fact("Started", time(step.started)),
    fact("Took", step.ended ? duration((Date.parse(step.ended) - Date.parse(step.started)) / 1000) : "not ended"),
    fact("Attempts", String(step.attempts)),
  ];
  if (detail.model) facts.push(fact("Model", [detail.provider, detail.model].filter(Boolean).join(" · ")));
  for (const [name, count] of Object.entries(step.usage ?? {})) facts.push(fact(name.replaceAll("_", " "), String(count)));
  const parts = [make("dl", "facts", facts)];
  if (step.event === "cached") parts.push(make("p", "faint", "Taken from the cache of an earlier run; nothing was executed."));
  if (detail.told) parts.push(make("p", "faint", "A person said that it happened; the result is theirs."));
  if (detail.approval) {
    const link = make("a", "", "the signature");
    link.href = `/approvals/${detail.approval}`;
    parts.push(make("p", "", ["Allowed by ", link, detail.edited ? ", with edited arguments." : "."]));
  }
  if (step.error) parts.push(make("h3", "", "Error"), failure(step.error));
  for (const error of step.failures) parts.push(make("h3", "", ["Attempt failed ", time(error.at)]), failure(error));
  if (detail.arguments) parts.push(...block(detail.edited ? "Executed with (edited)" : "Executed with", detail.arguments));
  if (["completed", "cached"].includes(step.event)) parts.push(...block("Result", step.value));
  if (run.isServed) {
    const link = make("a", "button", "Fork from here");
    link.href = `/runs/${run.id}/fork?from=${step.id}`;
    parts.push(make("p", "actions", link));
  }
  return parts;
}

/** Show a step of a run ({id, isServed}) in the panel; 0 closes it. */
export async function showStep(panel, run, seq, close) {
  panel.dataset.seq = seq;
  panel.hidden = seq === 0;
  if (seq === 0) return panel.replaceChildren();
  const button = make("button", "quiet close", "Close");
  button.addEventListener("click", close);
  try {
    const step = await fetchJSON(`/api/runs/${run.id}/steps/${seq}`);
    if (Number(panel.dataset.seq) !== seq) return undefined; // another one was chosen meanwhile
    panel.replaceChildren(make("div", "line", [make("h2", "", step.name), make("span", "spacer"), button]), ...content(step, run));
  } catch (error) {
    panel.replaceChildren(make("div", "line", [make("h2", "", "Not readable"), make("span", "spacer"), button]), make("p", "wrong", error.message));
  }
  return undefined;
}

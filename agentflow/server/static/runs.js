// The list of runs: the same page of it, brought up to date when something has changed.

import { duration, fetchJSON, listen, make, soon, stateMark, time, trouble } from "./page.js";

const body = document.querySelector("#runs tbody");
const query = document.getElementById("runs").dataset.query ?? location.search;
const none = document.getElementById("no-runs");
document.getElementById("flow")?.addEventListener("change", (event) => event.target.form.requestSubmit());

function row(run) {
  const line = make("tr");
  line.dataset.id = run.run_id;
  const slots = [...new Set(run.awaiting_slots.map((slot) => `waits for ${slot.text}`))].join("; ");
  const link = make("a", "strong", run.flow);
  link.href = `/runs/${run.run_id}`;
  const took = make("td", "right num", duration(run.elapsed_s ?? since(run.started)));
  if (run.started && !run.ended) took.dataset.since = run.started;
  line.append(
    make("td", "", stateMark(run.state_name ?? run.state)),
    make("td", "", [link, make("span", "id", run.name || run.run_id.slice(-8))]),
    make("td", "", time(run.started ?? run.created)),
    took,
    make("td", "message", slots || run.message),
  );
  line.dataset.mark = JSON.stringify([run.state, slots || run.message, run.started, run.ended]);
  return line;
}

function since(moment) {
  return moment ? Math.max(0, (Date.now() - Date.parse(moment)) / 1000) : null;
}

async function refresh() {
  let page;
  try {
    page = await fetchJSON(`/api/runs${query}`);
  } catch (error) {
    trouble(`The list is not up to date: ${error.message}.`);
    return;
  }
  trouble("");
  const known = new Map([...body.rows].map((line) => [line.dataset.id, line]));
  const lines = page.runs.map((run) => {
    const fresh = row(run);
    const old = known.get(run.run_id);
    if (old?.dataset.mark === fresh.dataset.mark) return old;
    if (old === undefined && known.size) fresh.classList.add("fresh");
    return fresh;
  });
  body.replaceChildren(...lines);
  none.hidden = lines.length > 0;
}

listen({ query: "" }, { changed: soon(refresh) });

// The pages of limits: who holds slots and who waits, brought up to date when something has changed.

import { fetchJSON, listen, make, reload, soon, time, trouble } from "./page.js";

const MOST = 200;
const page = document.getElementById("limit");
const address = (name) => name.split("/").map(encodeURIComponent).join("/");
const number = (value) => String(Math.round(value * 1000) / 1000);

function holder(slot) {
  if (!slot.run_id) return make("span", "mono", slot.process);
  const link = make("a", "mono", slot.run_id.slice(-8));
  link.href = `/runs/${slot.run_id}`;
  return link;
}

// -- the list
function holders(slots) {
  const named = slots.slice(0, 3).flatMap((slot, index) => (index ? [", ", holder(slot)] : [holder(slot)]));
  if (slots.length > 3) named.push(` and ${slots.length - 3} more`);
  return named;
}

function takeList(limits) {
  const body = document.querySelector("#limits tbody");
  const lines = new Map([...body.rows].map((line) => [line.dataset.name, line]));
  if (limits.length !== lines.size || limits.some((limit) => !lines.has(limit.name))) {
    reload(); // one came or went; what is typed into the form stays only where nothing did
    return;
  }
  for (const limit of limits) {
    const [, , taken, waiting, held] = lines.get(limit.name).cells;
    const meter = taken.querySelector("meter");
    const used = limit.limit - limit.free;
    meter.value = limit.limit ? Math.min(1, used / limit.limit) : 0;
    const rate = limit.slot_decay_per_second ? [" ", make("span", "faint", `${number(limit.slot_decay_per_second)} a second`)] : [];
    taken.replaceChildren(meter, ` ${number(used)} of ${limit.limit}`, ...rate);
    waiting.textContent = limit.waiting.length;
    held.replaceChildren(...holders(limit.holders));
  }
}

// -- one limit
function takeSlots(id, slots) {
  const lines = slots.slice(0, MOST).map((slot) => make("tr", "", [
    make("td", "", holder(slot)),
    make("td", "", slot.step),
    make("td", "right num", String(slot.slots)),
    make("td", "", time(slot.granted ?? slot.since)),
  ]));
  document.querySelector(`#${id} tbody`).replaceChildren(...lines);
  document.getElementById(`no-${id}`).hidden = slots.length > 0;
}

function takeLimit(limit) {
  document.getElementById("taken").textContent = `${number(limit.limit - limit.free)} of ${limit.limit}`;
  document.getElementById("waiting-count").textContent = limit.waiting.length;
  takeSlots("holders", limit.holders);
  takeSlots("waiting", limit.waiting);
}

async function refresh() {
  try {
    if (page) takeLimit(await fetchJSON(`/api/limits/${address(page.dataset.name)}`));
    else takeList((await fetchJSON("/api/limits")).limits);
    trouble("");
  } catch (error) {
    trouble(`The page is not up to date: ${error.message}.`);
  }
}

listen({ query: "" }, { changed: soon(refresh) });
document.querySelector("main").dataset.ready = "yes";

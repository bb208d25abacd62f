// What every page does: times in the reader's zone, ticking durations, the count of open questions, one event stream.

const UNITS = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];

/** A length of time for people: 400 ms, 1.2 s, 12 s, 3 min 5 s, 2 h 10 min. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 0.001) return "< 1 ms";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  for (const [size, unit, part, smaller] of UNITS) {
    if (whole >= size) {
      const rest = Math.floor((whole % size) / part);
      return `${Math.floor(whole / size)} ${unit}` + (rest ? ` ${rest} ${smaller}` : "");
    }
  }
  return `${whole} s`;
}

/** A time for people, in their zone; the date only where it is not today. */
export function clock(moment) {
  const at = new Date(moment);
  const time = at.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  if (at.toDateString() === new Date().toDateString()) return time;
  return `${at.toLocaleDateString(undefined, { day: "numeric", month: "short", year: "numeric" })}, ${time}`;
}

/** An element with a class, and a text or children. */
export function make(tag, name = "", content = []) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...[content].flat());
  return element;
}

export function time(moment) {
  const element = make("time", "", clock(moment));
  element.dateTime = moment;
  element.title = moment;
  return element;
}

const STATES = { PAUSED: "waiting", AwaitingConcurrencySlot: "awaiting slot" };
export const stateWord = (name) => STATES[name] ?? name.toLowerCase();
export const stateMark = (name) => make("span", `state ${stateWord(name)}`, stateWord(name));

/** JSON of this server; throws an Error with the server's own words. */
export async function fetchJSON(address) {
  const response = await fetch(address, { headers: { accept: "application/json" } });
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error?.message ?? `the server answered ${response.status}`);
  return body;
}

/** Show in place of silence that something could not be read. "" takes it away. */
export function trouble(text) {
  const notice = document.getElementById("trouble");
  if (notice === null) return;
  notice.hidden = !text;
  notice.textContent = text;
}

let sending = false;
document.addEventListener("submit", (event) => { sending = !event.defaultPrevented; });
window.addEventListener("pageshow", () => { sending = false; });

/** Show the page anew - but not while a form of it is on its way: a reload would take the place of what the server answers. */
export function reload() {
  if (!sending) location.reload();
}

/**
 * One event stream for the page. It is closed while nobody looks at the page (a browser opens six connections to a server,
 * and six forgotten tabs would take them all) and goes on where it was.
 */
export function listen(address, handlers) {
  const light = document.getElementById("live");
  let source = null;
  let last = "";
  let ended = false;

  const open = () => {
    if (source !== null || ended || document.hidden) return;
    const query = new URLSearchParams(address.query);
    if (last || address.after?.()) query.set("after", last || address.after());
    source = new EventSource(`/api/events/stream?${query}`);
    source.addEventListener("open", () => show(false));
    source.addEventListener("error", () => show(true));
    const all = { ...handlers, changed: (data) => { count(data.open); handlers.changed?.(data); } };
    for (const [name, handle] of Object.entries(all)) {
      source.addEventListener(name, (event) => {
        if (event.lastEventId) last = event.lastEventId;
        handle(JSON.parse(event.data));
      });
    }
    source.addEventListener("end", () => { ended = true; close(); });
  };
  const close = () => {
    source?.close();
    source = null;
    if (light) light.hidden = true;
  };
  const show = (broken) => {
    if (!light) return;
    light.hidden = false;
    light.classList.toggle("broken", broken);
    light.textContent = broken ? "connection lost, trying again" : "live";
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  open();
}

function count(open) {
  const badge = document.getElementById("open-count");
  if (badge === null) return;
  badge.dataset.count = open;
  badge.textContent = open >= 200 ? "200+" : open;
}

/** Calls a function once, soon, however often it is asked for. */
export function soon(work, wait = 250) {
  let timer = null;
  return () => {
    timer ??= setTimeout(() => { timer = null; work(); }, wait);
  };
}

for (const element of document.querySelectorAll("time[datetime]")) {
  element.title = element.dateTime;
  element.textContent = clock(element.dateTime);
}

setInterval(() => {
  for (const element of document.querySelectorAll("[data-since]")) {
    element.textContent = duration(Math.max(0, (Date.now() - Date.parse(element.dataset.since)) / 1000));
  }
}, 1000);

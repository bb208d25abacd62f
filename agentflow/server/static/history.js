// The lives of a run, and what became of each step in one of them; read only when it is opened.

import { fetchJSON, make, time } from "./page.js";

const list = (items) => make("ul", "lines", items.map((item) => make("li", "", item)));

function life(one, chosen, choose) {
  const button = make("button", one.life === chosen ? "quiet chosen" : "quiet", `Life ${one.life}`);
  button.addEventListener("click", () => choose(one.life));
  const asked = one.origin ? `, asked for by ${one.origin}` : "";
  const ended = one.ended ? [" to ", time(one.ended)] : [];
  return [button, " ", make("b", "mark", one.end.replace("_", " ")), " ", time(one.began), ...ended, make("span", "faint", asked), one.message ? ` ${one.message}` : ""];
}

function verdict(group) {
  const many = group.count > 1 ? ` ${group.count}×` : "";
  const reason = group.reason ? make("span", "faint", ` ${group.reason}`) : "";
  return [make("b", `mark ${group.how.replaceAll(" ", "-")}`, group.how), " ", make("strong", "", group.name), many, reason];
}

function descent(origin) {
  const link = make("a", "mono", origin.run_id);
  link.href = `/runs/${origin.run_id}`;
  const parts = [make("p", "", ["Forked from ", link, ` at ${origin.name}.`])];
  if (origin.happened.length) {
    const words = (effect) => `${effect.tool}(${JSON.stringify(effect.arguments ?? {})}): ${effect.end}`;
    parts.push(make("p", "", "That run did from there on:"), list(origin.happened.map(words)));
  }
  return parts;
}

/** Fill `body` with the history of a run, explaining one life (the last, if none is said). */
export async function showHistory(body, run, number) {
  try {
    const history = await fetchJSON(`/api/runs/${run}/history${number ? `?life=${number}` : ""}`);
    const told = history.explanation;
    const choose = (chosen) => showHistory(body, run, chosen);
    const parts = history.forked_from ? descent(history.forked_from) : [];
    parts.push(list(history.lives.map((one) => life(one, told?.life, choose))));
    if (told) {
      const counts = Object.entries(told.counts).map(([how, count]) => `${count} ${how}`).join(", ");
      const code = told.changed_code ? " under changed code" : "";
      parts.push(make("h3", "", `Life ${told.life}${code}: ${counts || "nothing was recorded"}`), list(told.groups.map(verdict)));
    }
    body.replaceChildren(...parts);
  } catch (error) {
    body.replaceChildren(make("p", "wrong", `The history could not be read: ${error.message}.`));
  }
}

// The inbox: says when it is no longer what it was; it never changes under the reader's hand.

import { fetchJSON, listen, reload, soon, trouble } from "./page.js";

const shown = document.getElementById("inbox").dataset.ids;
const news = document.getElementById("news");

async function compare() {
  try {
    const { approvals } = await fetchJSON("/api/approvals");
    trouble("");
    const now = approvals.map((wait) => wait.id).join(" ");
    if (now !== shown && shown === "") reload();
    else news.hidden = now === shown;
  } catch (error) {
    trouble(`The inbox is not up to date: ${error.message}.`);
  }
}

listen({ query: "" }, { changed: soon(compare) });

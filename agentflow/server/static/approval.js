// One question: shows which fields differ from what was proposed, and which button means what.

import { fetchJSON, listen, reload, soon } from "./page.js";

const form = document.getElementById("decision");
if (form !== null) {
  const fields = [...form.querySelectorAll(".field")].map((box) => [box, box.querySelector("[name^='field.']")]).filter(([, input]) => input);
  const approve = document.getElementById("approve");
  const edit = document.getElementById("edit");

  const look = () => {
    let touched = false;
    for (const [box, input] of fields) {
      const differs = input.value !== input.dataset.original; // what was proposed; after a refused form, the text is not that
      box.classList.toggle("touched", differs);
      touched ||= differs;
    }
    if (approve === null || edit === null) return;
    approve.disabled = touched;
    edit.disabled = !touched;
    approve.classList.toggle("primary", !touched);
    edit.classList.toggle("edit", !touched);
  };
  form.addEventListener("input", look);
  window.addEventListener("pageshow", look);
  look();

  // disabled only after the form has been collected, or the pressed button would not be part of it
  form.addEventListener("submit", () => setTimeout(() => form.querySelectorAll("button").forEach((button) => { button.disabled = true; })));

  const id = location.pathname.split("/").pop();
  const check = async () => {
    try {
      const wait = await fetchJSON(`/api/approvals/${id}`);
      if (wait.status !== "open") reload();
    } catch {
      return; // the light in the footer says that the connection is lost
    }
  };
  listen({ query: "" }, { changed: soon(check) });
} else {
  listen({ query: "" }, {});
}

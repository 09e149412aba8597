"use strict";
// Asks the server for news once a second, and hands what is new to the page.
(() => {
  const first = JSON.parse(document.getElementById("run").textContent);
  let revision = first.revision;
  let missed = 0;

  async function ask() {
    try {
      const answer = await fetch(`api/state?since=${encodeURIComponent(revision)}`, { cache: "no-store" });
      if (answer.status === 200) {
        const next = await answer.json();
        revision = next.revision;
        document.title = next.title;
        window.manynet.update(next);
      } else if (answer.status !== 204) {
        throw new Error(String(answer.status));
      }
      missed = 0;
    } catch {
      missed += 1;
    }
    lost(missed > 2);
    setTimeout(ask, document.hidden ? 5000 : 1000);
  }

  function lost(gone) {
    document.getElementById("lost").hidden = !gone;
  }

  // ---- exporting a member ---------------------------------------------------------------------
  // The page's script asks for this wherever it shows the picked member's files.
  window.manynetOffer = (run, cost, stop, exported) => {
    const job = run.job;
    if (!run.mayExport) return [];
    const said = (text, className) => Object.assign(document.createElement("p"), { textContent: text, className });
    if (job.state === "working") return [said(`Exporting ${job.name} …`, "muted")];
    if (exported) return job.state === "failed" ? [said(job.text, "bad")] : [];
    const form = document.createElement("form");
    const label = Object.assign(document.createElement("label"), { className: "field", textContent: "Name" });
    const name = Object.assign(document.createElement("input"), { id: "name", type: "text", value: stop.name, autocomplete: "off", spellcheck: false });
    const button = Object.assign(document.createElement("button"), { textContent: "Export it now" });
    label.append(name);
    form.append(label, button);
    const told = said("", "bad");
    told.setAttribute("role", "status");
    if (job.state === "failed") told.textContent = job.text;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      button.disabled = true;
      button.blur();
      told.textContent = "";
      try {
        const answer = await fetch("api/export", {
          method: "POST",
          headers: { "Content-Type": "application/json" },
          body: JSON.stringify({ cost, limit: stop.limit, name: name.value.trim() }),
        });
        const found = await answer.json();
        if (!answer.ok) throw new Error(found.error);
        button.textContent = "Exporting …";
        name.blur();
      } catch (error) {
        told.textContent = error.message;
        button.disabled = false;
      }
    });
    return [form, told];
  };

  window.manynet.refresh();
  setTimeout(ask, 1000);
})();

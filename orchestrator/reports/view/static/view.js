"use strict";
(async () => {
  const at = (id) => document.getElementById(id);
  const all = (selector) => document.querySelectorAll(selector);
  const LARGE = 1600, POLL = 2000, DELAY = 120;
  const number = (value) => value.toLocaleString("en");
  const images = (count) => `${number(count)} image${count === 1 ? "" : "s"}`;
  let runs, panels, start = 0, found = 0, open = -1, asked = 0, timer = 0;

  const call = async (path, options) => {
    const answer = await fetch(path, options);
    if (answer.ok) return answer.json();
    const text = await answer.text();
    let error = { message: text };
    try { error = JSON.parse(text); } catch { /* a plain text */ }
    throw new Error([error.message, error.why, error.hint && `next: ${error.hint}`].filter(Boolean).join("\n"));
  };
  const explain = async (image) => {
    const answer = await fetch(image.url);
    return answer.ok ? "the browser cannot show this image" : answer.text();
  };
  const complain = (error) => {
    at("problem").textContent = error ? (error instanceof TypeError ? "orch view does not answer: it was ended, or is busy" : error.message) : "";
    at("problem").hidden = !error;
  };

  const state = () => ({
    category: at("category").value === "" ? null : Number(at("category").value),
    score: Number(at("score").value),
    masks: at("masks").checked, boxes: at("boxes").checked, labels: at("labels").checked,
  });
  const query = (from, count, side) => {
    const values = {
      category: at("category").value, state: at("state").value, apart: at("apart").value, order: at("order").value,
      score: at("score").value, words: at("search").value.trim(), start: from, count, side: side || "",
    };
    return `api/images?${new URLSearchParams(Object.entries(values).filter(([, value]) => value !== ""))}`;
  };
  const perPage = () => (runs.truth || runs.runs.length > 1 ? 12 : 24);

  const describe = () => {
    panels = makePanels(runs, explain);
    const { make } = panels;
    document.title = `${runs.runs.join(" · ")} – orch view`;
    at("progress").replaceChildren(...runs.progress.map((run, place) => {
      const item = make("li"), isFinished = run.images === run.total;
      item.append(make("i", `dot run${place % 6}`), make("b", "", run.label), " ");
      const words = isFinished ? images(run.images) : `${number(run.images)} of ${images(run.total)}, not complete`;
      item.append(make("span", "", `${words}${run.failed ? `, ${number(run.failed)} failed` : ""}`));
      return item;
    }));
    at("refresh").hidden = runs.progress.every((run) => run.images === run.total);
    at("notes").hidden = !runs.notes.length;
    at("notes").querySelector("summary").textContent = runs.notes.length === 1 ? "1 note" : `${runs.notes.length} notes`;
    at("notes").querySelector("ul").replaceChildren(...runs.notes.map((note) => make("li", "", note)));
    const chosen = at("category").value, options = Object.entries(runs.categories);
    at("category").replaceChildren(...[["", { name: "all" }], ...options].map(([value, { name }]) => {
      const option = make("option", "", name);
      option.value = value;
      return option;
    }));
    at("category").value = chosen in runs.categories ? chosen : "";
    for (const label of all(".compared")) label.hidden = !runs.compared;
    for (const key of all(".judged")) key.hidden = !runs.truth;
    at("cards").className = runs.runs.length === 1 && !runs.truth ? "single" : "";
  };

  const show = async () => {
    clearTimeout(timer);
    const mine = ++asked, usesApart = at("apart").value !== "0" || at("order").value === "apart";
    at("score-text").textContent = Number(at("score").value).toFixed(2);
    at("cards").setAttribute("aria-busy", "true");
    let answer;
    try {
      answer = await call(query(start, perPage()));
    } catch (error) {
      if (mine === asked) complain(error);
      return;
    } finally {
      if (mine === asked) at("cards").setAttribute("aria-busy", "false");
    }
    if (mine !== asked) return; // a later question was asked meanwhile
    complain(null);
    found = answer.found;
    if (start && start >= found) {
      start = Math.max(0, Math.ceil(found / perPage()) - 1) * perPage();
      return show();
    }
    const now = state(), last = start + answer.images.length, isMeasuring = usesApart && answer.known < runs.images;
    const words = found ? `${number(start + 1)}–${number(last)} of ${images(found)}` : "";
    const measured = isMeasuring ? `disagreement is known of ${number(answer.known)} of ${images(runs.images)} so far` : "";
    at("count").textContent = [words, measured].filter(Boolean).join("; ");
    at("cards").replaceChildren(...answer.images.map((image, place) => panels.cardOf(image, now, () => enlarge(start + place))));
    if (!found) at("cards").append(panels.make("p", "none", "No image passes these filters."));
    for (const button of all(".previous")) button.disabled = start === 0;
    for (const button of all(".next")) button.disabled = last >= found;
    if (isMeasuring) timer = setTimeout(show, POLL);
  };

  const turn = (by) => {
    const next = start + by * perPage();
    if (next < 0 || next >= found) return;
    start = next;
    show().then(() => at("filters").scrollIntoView({ block: "start" }));
  };
  const enlarge = async (place) => {
    if (place < 0 || place >= found) return;
    open = place;
    let answer;
    try {
      answer = await call(query(place, 1, LARGE));
    } catch (error) {
      at("large").close();
      return complain(error);
    }
    if (open !== place || !answer.images.length) return;
    at("large-name").textContent = `${answer.images[0].file} (${number(place + 1)} of ${number(found)})`;
    at("large-panels").replaceChildren(panels.panelsOf(answer.images[0], state()));
    at("before").disabled = place === 0;
    at("after").disabled = place === found - 1;
    if (!at("large").open) at("large").showModal();
  };

  const reload = async () => {
    at("reload").disabled = true;
    try {
      runs = await call("api/reload", { method: "POST" });
      describe();
      await show();
    } catch (error) {
      complain(error);
    }
    at("reload").disabled = false;
  };

  for (const id of ["category", "state", "apart", "order", "score", "search", "masks", "boxes", "labels"]) {
    at(id).addEventListener("input", () => {
      if (!["masks", "boxes", "labels"].includes(id)) start = 0;
      at("score-text").textContent = Number(at("score").value).toFixed(2);
      clearTimeout(timer);
      timer = setTimeout(show, DELAY);
    });
  }
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const button of all(".previous")) button.addEventListener("click", () => turn(-1));
  for (const button of all(".next")) button.addEventListener("click", () => turn(1));
  at("before").addEventListener("click", () => enlarge(open - 1));
  at("after").addEventListener("click", () => enlarge(open + 1));
  at("reload").addEventListener("click", reload);
  at("large").addEventListener("close", () => {
    const page = Math.floor(open / perPage()) * perPage();
    open = -1;
    if (page !== start && page >= 0) {
      start = page;
      show();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (at("large").open) return by && enlarge(open + by);
    if (event.target.closest("input, select, textarea")) return;
    if (by) turn(by);
    if (event.key === "/") {
      event.preventDefault();
      at("search").focus();
    }
  });

  try {
    runs = await call("api/runs");
  } catch (error) {
    return complain(error);
  }
  at("score").min = Math.floor(runs.minScore * 20) / 20;
  at("score").value = Math.max(runs.minScore, 0.5);
  describe();
  await show();
})();

"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const PER_PAGE = 12;
  let page = 0, open = -1, found = [];

  const { make, visible, panelsOf, cardOf } = makePanels(data);
  const state = () => ({
    category: at("category").value === "" ? null : Number(at("category").value),
    apart: Number(at("apart").value),
    order: at("order").value,
    score: Number(at("score").value),
    words: at("search").value.trim().toLowerCase(),
    masks: at("masks").checked, boxes: at("boxes").checked, labels: at("labels").checked,
  });
  const wanted = (image, now) =>
    image.apart >= now.apart && image.file.toLowerCase().includes(now.words) &&
    (now.category === null || image.panels.some((panel) => (panel.instances || []).some((one) => visible(one, now))));

  const show = () => {
    const now = state();
    at("score-text").textContent = now.score.toFixed(2);
    found = data.images.filter((image) => wanted(image, now));
    if (now.order === "apart") found.sort((a, b) => b.apart - a.apart || a.n - b.n);
    const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const first = page * PER_PAGE, part = found.slice(first, first + PER_PAGE);
    at("count").textContent = found.length
      ? `${first + 1}–${first + part.length} of ${found.length} images` : "No image is left by these filters";
    at("cards").replaceChildren(...part.map((image, place) => cardOf(image, now, () => enlarge(first + place))));
    if (!part.length) at("cards").append(make("p", "none", "No image is left by these filters."));
    for (const button of document.querySelectorAll("#previous, .previous")) button.disabled = page === 0;
    for (const button of document.querySelectorAll("#next, .next")) button.disabled = page === pages - 1;
  };

  const turn = (by) => {
    page += by;
    show();
    at("filters").scrollIntoView({ block: "start" });
  };
  const enlarge = (place) => {
    if (place < 0 || place >= found.length) return;
    open = place;
    at("large-name").textContent = found[place].file;
    at("large-panels").replaceChildren(panelsOf(found[place], state()));
    if (!at("large").open) at("large").showModal();
  };

  at("score").min = Math.floor(data.minScore * 20) / 20;
  at("score").value = Math.max(data.minScore, 0.5);
  for (const id of ["category", "apart", "order", "score", "search", "masks", "boxes", "labels"]) {
    at(id).addEventListener("input", () => {
      if (!["masks", "boxes", "labels"].includes(id)) page = 0;
      show();
    });
  }
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const button of document.querySelectorAll("#previous, .previous")) button.addEventListener("click", () => turn(-1));
  for (const button of document.querySelectorAll("#next, .next")) button.addEventListener("click", () => turn(1));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (at("large").open) {
      if (event.key === "ArrowLeft") enlarge(open - 1);
      if (event.key === "ArrowRight") enlarge(open + 1);
      return;
    }
    if (event.target.closest("input, select, textarea")) return;
    if (event.key === "/") {
      event.preventDefault();
      at("search").focus();
    }
    if (event.key === "n" && !at("next").disabled) turn(1);
    if (event.key === "p" && !at("previous").disabled) turn(-1);
  });
  show();
})();

"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const PER_PAGE = 12;
  const names = data.names ? data.names : data.truth ? ["truth", ...data.runs] : data.runs;
  const pictures = new Map();
  let page = 0, open = -1, found = [];

  const make = (tag, classes, text) => {
    const element = document.createElement(tag);
    if (classes) element.className = classes;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const draw = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const state = () => ({
    category: at("category").value === "" ? null : Number(at("category").value),
    apart: Number(at("apart").value),
    order: at("order").value,
    score: Number(at("score").value),
    words: at("search").value.trim().toLowerCase(),
    masks: at("masks").checked, boxes: at("boxes").checked, labels: at("labels").checked,
  });
  // An instance is [category, score, box, mask, right]; the truth's have no score and are always shown.
  const visible = (instance, now) =>
    (now.category === null || instance[0] === now.category) && (instance[1] === null || instance[1] >= now.score);
  const wanted = (image, now) =>
    image.apart >= now.apart && image.file.toLowerCase().includes(now.words) &&
    (now.category === null || image.panels.some((panel) => (panel.instances || []).some((one) => visible(one, now))));

  const load = (url) => {
    if (!pictures.has(url)) {
      pictures.set(url, new Promise((done) => {
        if (!url) return done(null);
        const element = new Image();
        element.onload = () => done(element);
        element.onerror = () => done(null);
        element.src = url;
      }));
    }
    return pictures.get(url);
  };

  // A mask is [x, y, width, height, runs]: run lengths along the columns of that window, outside first.
  const paint = (context, mask, colour) => {
    const [x, y, width, height, runs] = mask;
    const inside = new Uint8Array(width * height);
    let place = 0;
    runs.forEach((length, number) => {
      if (number % 2) inside.fill(1, place, place + length);
      place += length;
    });
    const [red, green, blue] = colour.match(/\d+/g).map(Number);
    const image = new ImageData(width, height);
    for (let column = 0; column < width; column++) {
      for (let row = 0; row < height; row++) {
        const here = column * height + row;
        if (!inside[here]) continue;
        const edge = column === 0 || row === 0 || column === width - 1 || row === height - 1 ||
          !inside[here - 1] || !inside[here + 1] || !inside[here - height] || !inside[here + height];
        image.data.set([red, green, blue, edge ? 235 : 100], (row * width + column) * 4);
      }
    }
    const layer = make("canvas");
    layer.width = width;
    layer.height = height;
    layer.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(layer, x, y);
  };

  const label = (view, image, box, text, colour) => {
    const [red, green, blue] = colour.match(/\d+/g).map(Number);
    const element = make("span", "", text);
    element.style.background = colour;
    element.style.color = red * 0.299 + green * 0.587 + blue * 0.114 > 140 ? "#000" : "#fff";
    if (box[0] > image.size[0] * 0.6) element.style.right = `${100 - (100 * (box[0] + box[2])) / image.size[0]}%`;
    else element.style.left = `${(100 * box[0]) / image.size[0]}%`;
    element.style.top = `${Math.max(0, (100 * box[1]) / image.size[1])}%`;
    view.append(element);
  };

  const panelOf = (image, panel, number, now) => {
    const figure = make("figure", "panel"), caption = make("figcaption"), view = make("div", "view");
    const canvas = make("canvas"), overlay = draw("svg", { viewBox: `0 0 ${image.size[0]} ${image.size[1]}`, "aria-hidden": "true" });
    const instances = (panel.instances || []).filter((one) => visible(one, now)).reverse();
    // `found` has the score of what found each instance of the truth; null for crowds, which nobody has to find.
    const missed = (panel.found || []).flatMap((score, place) => {
      const one = (image.panels[0].instances || [])[place];
      return one && score !== null && score < now.score && visible(one, now) ? [one] : [];
    });
    const words = [`${instances.length}${panel.more ? ` of ${instances.length + panel.more}` : ""}`];
    if (missed.length) words.push(`${missed.length} missed`);
    caption.append(make("span", "", names[number]), make("span", "", panel.error ? "" : panel.words ?? words.join(", ")));
    [canvas.width, canvas.height] = image.size;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${image.file}, ${names[number]}: ${panel.error || (panel.words ?? `${instances.length} instances`)}`);
    view.append(canvas, overlay);
    figure.append(caption, view);
    // A panel with a picture of its own, such as a heat map, shows that in place of the image.
    const note = panel.error || (panel.url && now.masks ? "" : image.note);
    if (note) view.append(make("p", "missing", note));
    load(panel.url && now.masks ? panel.url : image.url).then((element) => {
      const context = canvas.getContext("2d");
      if (element) context.drawImage(element, 0, 0, ...image.size);
      if (now.masks) for (const one of instances) if (one[3]) paint(context, one[3], data.categories[one[0]].colour);
    });
    for (const [category, , box, , right] of now.boxes ? instances : []) {
      overlay.append(draw("rect", {
        x: box[0], y: box[1], width: box[2], height: box[3],
        stroke: data.categories[category].colour, class: right === 0 ? "wrong" : "",
      }));
    }
    for (const [, , box] of now.boxes ? missed : []) {
      overlay.append(draw("rect", { x: box[0], y: box[1], width: box[2], height: box[3], class: "missed" }));
    }
    for (const [category, score, box] of now.labels ? instances : []) {
      const { name, colour } = data.categories[category];
      label(view, image, box, score === null ? name : `${name} ${score.toFixed(2)}`, colour);
    }
    return figure;
  };

  const panelsOf = (image, now) => {
    const panels = make("div", "panels");
    image.panels.forEach((panel, number) => panels.append(panelOf(image, panel, number, now)));
    return panels;
  };

  const cardOf = (image, place, now) => {
    const card = make("article", "card"), header = make("header"), title = make("h3"), button = make("button", "", image.file);
    button.type = "button";
    button.title = "Enlarge";
    title.append(button);
    const compared = data.truth || data.runs.length > 1;
    header.append(title, make("span", "", compared ? `disagreement ${Math.round(100 * image.apart)} %` : ""));
    card.append(header, panelsOf(image, now));
    button.addEventListener("click", () => enlarge(place));
    card.addEventListener("click", (event) => event.target.closest(".view") && enlarge(place));
    return card;
  };

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
    at("cards").replaceChildren(...part.map((image, place) => cardOf(image, first + place, now)));
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

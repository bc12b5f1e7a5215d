"use strict";
// Panels of one image: the truth, if there is one, then each run's instances. The report and `orch view` draw with it.
// `data` has truth, runs (labels) and categories; `explain(image)` returns why a picture could not be loaded.
const makePanels = (data, explain = async () => "") => {
  const names = data.names ? data.names : data.truth ? ["truth", ...data.runs] : data.runs;
  const KEPT_PICTURES = 300;
  const pictures = new Map();

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
  // An instance is [category, score, box, mask, right]; the truth's have no score and are always shown.
  const visible = (instance, now) =>
    (now.category === null || instance[0] === now.category) && (instance[1] === null || instance[1] >= now.score);

  const load = (url) => {
    if (!pictures.has(url)) {
      if (pictures.size >= KEPT_PICTURES) pictures.delete(pictures.keys().next().value);
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
    load(panel.url && now.masks ? panel.url : image.url).then(async (element) => {
      const context = canvas.getContext("2d");
      if (!element && image.url && !panel.error) view.append(make("p", "missing", await explain(image)));
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
    panels.style.setProperty("--panels", image.panels.length);
    panels.style.setProperty("--aspect", image.size[0] / image.size[1]);
    image.panels.forEach((panel, number) => panels.append(panelOf(image, panel, number, now)));
    return panels;
  };

  const cardOf = (image, now, enlarge) => {
    const card = make("article", "card"), header = make("header"), title = make("h3"), button = make("button", "", image.file);
    button.type = "button";
    button.title = "Enlarge";
    title.append(button);
    const compared = (data.truth || data.runs.length > 1) && image.apart !== null;
    header.append(title, make("span", "", compared ? `disagreement ${Math.round(100 * image.apart)} %` : ""));
    card.append(header, panelsOf(image, now));
    button.addEventListener("click", enlarge);
    card.addEventListener("click", (event) => event.target.closest(".view") && enlarge());
    return card;
  };

  return { make, visible, panelsOf, cardOf };
};

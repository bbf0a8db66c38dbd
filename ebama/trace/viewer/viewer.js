// The map viewer: a prompt's words, a slider over the model calls, a colour bar, and each word's map over the pictures.
// The local page builds its results around `Viewer`; `show` builds a whole page from data, for a file or a notebook.

const maker = (namespace) => (name, attributes = {}, ...children) => {
  const element = document.createElementNS(namespace, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};
export const html = maker(document.documentElement.namespaceURI);
export const svg = maker("http://www.w3.org/2000/svg");

const COLOURS = 6; // classes g0 to g5 of viewer.css
const SMALL = 256; // pixels of a picture that is shown enlarged, its pixels kept as they are
const SIDES = [200, 200, 160, 140]; // of a picture in pixels, by how many stand side by side
export const colourOf = (group) => `g${group % COLOURS}`;

// A word of a prompt as a button, underlined by its group: word {text, role, group}, role "object", "modifier" or "",
// group a number or null.
export const wordButton = ({ text, role, group }, attributes) =>
  html("button", { type: "button", class: role + (group === null ? "" : ` ${colourOf(group)}`), ...attributes }, text);

// An outline with its word in the corner, for a parent of which it covers that part.
export function outline(word, [left, top, right, bottom], colour) {
  const box = html("div", { class: `box ${colour}`, "aria-hidden": "true" }, word);
  const sides = { left, top, width: right - left, height: bottom - top };
  for (const [side, share] of Object.entries(sides)) box.style.setProperty(side, `${100 * share}%`);
  return box;
}

// A word's map at one model call, or its mean over all of them (call null).
// values: Float32Array [words, calls, height, width]; -> Float32Array [height, width]
function mapOf({ values, maps: { calls, height, width } }, word, call) {
  const size = height * width;
  const start = word * calls * size;
  if (call !== null) return values.subarray(start + call * size, start + (call + 1) * size);
  const mean = new Float32Array(size);
  for (let i = 0; i < calls * size; i++) mean[i % size] += values[start + i] / calls;
  return mean;
}

const largest = (map) => map.reduce((most, value) => Math.max(most, value), 0);
const smallest = (map) => map.reduce((least, value) => Math.min(least, value), 0);

// A function that paints values from low to high into a canvas, which becomes as many pixels large.
function painter(hexColours) {
  const colours = hexColours.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  return (canvas, map, width, height, low, high) => {
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const image = context.createImageData(width, height);
    map.forEach((value, at) => {
      const index = Math.min(255, Math.max(0, Math.round((255 * (value - low)) / (high - low || 1))));
      image.data.set([...colours[index], 255], 4 * at);
    });
    context.putImageData(image, 0, 0);
  };
}

export class Viewer {
  // root: an element around everything that is shown; head: where the words, the bar and the slider go, emptied;
  // drawn: called with (word, call) whenever one of them, or a picture, is new.
  constructor(root, head, { colours, opacity }, drawn = () => {}) {
    Object.assign(this, { root, drawn, paint: painter(colours) });
    root.style.setProperty("--opacity", opacity);
    this.line = html("p", { id: "words", class: "words", "aria-label": "Words of the prompt" });
    this.hint = html("p", { id: "hint", class: "aside" }, "Point at a word, or reach it with Tab, to see where the model looks. A click keeps it.");
    this.low = html("span", { id: "low" });
    this.high = html("span", { id: "high" });
    const ramp = html("canvas", { id: "ramp", "aria-hidden": "true" });
    this.paint(ramp, Float32Array.from({ length: 256 }, (_, i) => i), 256, 1, 0, 255);
    this.scale = html("div", { id: "scale" }, this.low, ramp, this.high);
    this.slider = html("input", { id: "call", type: "range", min: 0, value: 0 });
    this.when = html("output", { id: "when", for: "call" });
    this.moment = html("label", { id: "moment" }, "Maps at ", this.slider, this.when);
    head.replaceChildren(this.line, html("div", { class: "lookout" }, this.hint, this.scale, this.moment));
    this.slider.addEventListener("input", () => this.draw());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.set({ pinned: null });
    });
    this.start([]);
  }

  // words: as `wordButton` takes them, some with a box.
  start(words) {
    Object.assign(this, { words, pictures: [], pinned: null, pointed: null });
    this.slider.value = 0;
    for (const element of [this.moment, this.scale]) element.hidden = true;
    this.line.replaceChildren();
    words.forEach((word, index) => {
      const button = wordButton(word, { "aria-pressed": "false" });
      for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => this.set({ pointed: index }));
      for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => this.set({ pointed: null }));
      button.addEventListener("click", () => this.set({ pinned: this.pinned === index ? null : index }));
      this.line.append(button, " ");
    });
  }

  // What is shown: the word that the pointer or the keyboard is at, else the one that a click pinned.
  set(shown) {
    Object.assign(this, shown);
    this.draw();
  }

  // picture: {values, maps: {calls, height, width}, timesteps, url, alt}, and if only some of the run's calls are there,
  // `numbers` of them, from 1, of `total`. The picture and its map go into `frame`.
  add(picture, frame) {
    const image = html("img", { alt: picture.alt });
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < SMALL));
    if (picture.url) image.src = picture.url;
    else image.hidden = true;
    picture.canvas = html("canvas", { "aria-hidden": "true" });
    frame.classList.add("frame");
    frame.style.aspectRatio = picture.maps.width / picture.maps.height;
    const boxes = this.words.filter(({ box }) => box).map(({ text, group, box }) => outline(text, box, colourOf(group)));
    frame.append(image, picture.canvas, ...boxes);
    this.pictures.push(picture);
    this.slider.max = picture.maps.calls;
    this.moment.hidden = false;
    this.draw();
  }

  draw() {
    if (!this.pictures.length) return;
    const word = this.pointed ?? this.pinned;
    const moment = Number(this.slider.value);
    const call = moment === 0 ? null : moment - 1;
    const { maps, timesteps, numbers, total = maps.calls } = this.pictures[0];
    const all = total === maps.calls ? "all" : `${maps.calls} of`;
    this.when.textContent =
      call === null ? `mean of ${all} ${total} calls` : `call ${numbers?.[call] ?? moment} of ${total}, t = ${timesteps[call]}`;
    this.root.classList.toggle("looking", word !== null);
    this.scale.hidden = word === null;
    this.hint.hidden = word !== null;
    if (word !== null) this.drawMaps(word, call);
    this.line.querySelectorAll("button").forEach((button, index) => {
      button.classList.toggle("shown", index === word);
      button.setAttribute("aria-pressed", index === this.pinned);
    });
    this.drawn(word, call);
  }

  // All pictures have one scale: from 0, or what is less, to the largest value that they show.
  drawMaps(word, call) {
    const maps = this.pictures.map((picture) => mapOf(picture, word, call));
    const [low, high] = [Math.min(...maps.map(smallest)), Math.max(...maps.map(largest))];
    this.low.textContent = low < 0 ? low.toPrecision(2) : "0";
    this.high.textContent = `${high.toPrecision(2)} for “${this.words[word].text}”`;
    this.pictures.forEach(({ canvas, maps: { width, height } }, index) => this.paint(canvas, maps[index], width, height, low, high));
  }
}

// A row of pictures, as many side by side as there is room for.
export function columns(element, count) {
  const most = Math.min(count, SIDES.length);
  element.style.setProperty("--columns", most);
  element.style.setProperty("--side", `${SIDES[most - 1]}px`);
}

// Bytes in base64, [words, calls, height, width], each map from its range's low to its high -> Float32Array.
function decode({ bytes, ranges, height, width }) {
  const size = height * width;
  return Float32Array.from(atob(bytes), (character, at) => {
    const [low, high] = ranges[Math.floor(at / size)];
    return low + ((high - low) * character.charCodeAt(0)) / 255;
  });
}

function choice(name, labels, changed) {
  const options = labels.map((label, index) => html("option", { value: index }, label));
  const select = html("select", {}, ...options);
  select.addEventListener("change", () => changed(Number(select.value)));
  const field = html("label", { class: "choice" }, `${name} `, select);
  field.hidden = labels.length < 2;
  return field;
}

const RESPECTS = { of: "Maps of", layer: "Layers", head: "Heads" };

// A field for each respect in which maps differ; what does not go with the choices before it cannot be chosen.
// layers: [{of, layer, head}]; changed: called with the index of the chosen one.
export function picker(layers, changed) {
  const names = Object.keys(RESPECTS);
  let chosen = layers[0];
  const alike = (layer, some) => some.every((name) => layer[name] === chosen[name]);
  const best = (some) => layers.filter((layer) => alike(layer, some)).sort((a, b) => agreement(b) - agreement(a))[0];
  const agreement = (layer) => names.filter((name) => layer[name] === chosen[name]).length;
  const fields = names.map((name, place) => {
    const values = [...new Set(layers.map((layer) => layer[name]))];
    const field = choice(RESPECTS[name], values, (index) => {
      chosen = { ...chosen, [name]: values[index] };
      chosen = best(names.slice(0, place + 1)) ?? best([name]);
      update();
      changed(layers.indexOf(chosen));
    });
    const fill = () =>
      field.querySelectorAll("option").forEach((option, index) => {
        option.selected = values[index] === chosen[name];
        option.disabled = !layers.some((layer) => layer[name] === values[index] && alike(layer, names.slice(0, place)));
      });
    return { field, fill };
  });
  const update = () => fields.forEach(({ fill }) => fill());
  update();
  return fields.map(({ field }) => field);
}

// data: see `_data` of ebama/trace/view.py.
export function show(root, data) {
  const head = html("div");
  const pictures = html("div", { class: "pictures" });
  const notes = html("p", { class: "aside", id: "notes" });
  const viewer = new Viewer(root, head, data);
  const chosen = { prompt: 0, layer: 0 };
  const fill = () => {
    const { words, pictures: shown } = data.prompts[chosen.prompt];
    const { pinned, slider: { value } } = viewer;
    viewer.start(words);
    columns(pictures, shown.length);
    pictures.replaceChildren(
      ...shown.map(({ label, url, layers }) => {
        const { calls, numbers, total, timesteps } = data;
        const { height, width } = layers[chosen.layer];
        const frame = html("div");
        const values = decode(layers[chosen.layer]);
        viewer.add({ url, alt: label, values, maps: { calls, height, width }, timesteps, numbers, total }, frame);
        return html("figure", {}, frame, html("figcaption", {}, label));
      }),
    );
    viewer.slider.value = value;
    viewer.set({ pinned: pinned < words.length ? pinned : null });
    notes.textContent = [data.layers[chosen.layer].about, ...data.notes].join(" ");
  };
  const choose = (what) => (index) => {
    chosen[what] = index;
    if (what === "prompt") viewer.pinned = null;
    fill();
  };
  const prompts = choice("Prompt", data.prompts.map(({ text }) => text), choose("prompt"));
  root.replaceChildren(html("div", { class: "choices" }, prompts, ...picker(data.layers, choose("layer"))), head, pictures, notes);
  fill();
  document.body.dataset.ready = "yes";
  fitFrame();
}

// In a notebook the page stands in a frame, which becomes as high as what it holds, and hides the still before it; it is
// dark where the notebook's text is light, whatever the computer is set to. A frame of another origin keeps its height
// and scrolls.
function fitFrame() {
  const frame = window.frameElement;
  if (!frame) return;
  if (frame.previousElementSibling?.matches("img")) frame.previousElementSibling.style.display = "none";
  const [red, green, blue] = getComputedStyle(frame).color.match(/[\d.]+/g).map(Number);
  document.documentElement.style.colorScheme = red + green + blue > 1.5 * 255 ? "dark" : "light";
  const fit = () => (frame.style.height = `${document.documentElement.offsetHeight}px`);
  new ResizeObserver(fit).observe(document.documentElement);
}

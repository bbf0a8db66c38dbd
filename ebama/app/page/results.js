// What a job made: the prompt's words, and a row of pictures and curves for each method.

import { outline } from "./boxes.js";
import { chart, colourOf, legend } from "./curves.js";
import { byId, html } from "./dom.js";
import { largest, mapOf, painter } from "./maps.js";
import * as server from "./server.js";

const MEANINGS = { intensity: "smoothed peak", similarity: "cosine of scores" };
const SIDES = [200, 200, 160, 140]; // of a picture in pixels, by how many stand side by side
const SMALL = 256; // pixels of a picture that is shown enlarged, its pixels kept as they are

export class Results {
  constructor(facts) {
    this.paint = painter(facts.colours);
    this.paint(byId("ramp"), Float32Array.from({ length: 256 }, (_, i) => i), 256, 1, 255);
    this.changes = Object.fromEntries(facts.methods.map(({ name, changes }) => [name, changes]));
    byId("results").style.setProperty("--opacity", facts.opacity);
    byId("call").addEventListener("input", () => this.draw());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.set({ pinned: null });
    });
    this.clear();
  }

  clear() {
    Object.assign(this, { job: null, pictures: [], pinned: null, pointed: null, seed: null });
    for (const id of ["words", "rows", "notes", "sites"]) byId(id).replaceChildren();
    byId("call").value = 0;
    for (const id of ["results", "moment", "scale"]) byId(id).hidden = true;
  }

  // What is shown: the word that the pointer or the keyboard is at, the one that a click pinned, the seed of the curves.
  set(shown) {
    Object.assign(this, shown);
    this.draw();
  }

  // Called for every answer about the job: takes in the pictures that are new.
  async update(job) {
    if (this.job?.id !== job.id) {
      this.clear();
      this.start(job);
    }
    while (this.pictures.length < job.pictures.length) {
      const index = this.pictures.length;
      const [facts, values] = await Promise.all([server.picture(job.id, index), server.maps(job.id, index)]);
      if (this.job?.id !== job.id) return; // another job took the page meanwhile
      if (this.pictures.length === index) this.add({ ...job.pictures[index], ...facts, values, index });
    }
  }

  start(job) {
    this.job = job;
    this.seed = job.seeds[0];
    const columns = Math.min(job.seeds.length, SIDES.length);
    byId("rows").style.setProperty("--columns", columns);
    byId("rows").style.setProperty("--side", `${SIDES[columns - 1]}px`);
    byId("notes").append(...job.notes.map((note) => html("li", {}, note)));
    job.words.forEach(({ text, role, group }, index) => {
      const colour = group === null ? "" : ` ${colourOf(group)}`;
      const button = html("button", { type: "button", class: role + colour, "aria-pressed": "false" }, text);
      for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => this.set({ pointed: index }));
      for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => this.set({ pointed: null }));
      button.addEventListener("click", () => this.set({ pinned: this.pinned === index ? null : index }));
      byId("words").append(button, " ");
    });
    for (const method of job.methods) {
      const heading = html("h2", {}, method, html("small", {}, this.changes[method.split("+")[0]] ?? ""));
      const row = html("div", { class: "row" }, heading, html("div", { class: "pictures" }), html("div", { class: "charts" }));
      row.hidden = true;
      byId("rows").append(row);
    }
  }

  add(picture) {
    this.pictures.push(picture);
    const { method, seed, name } = picture;
    for (const id of ["results", "moment"]) byId(id).hidden = false;
    byId("call").max = picture.maps.calls;
    byId("sites").textContent = `Maps: ${picture.sites}, probabilities after softmax; each word on one scale for all pictures.`;
    const url = server.pngOf(this.job.id, picture.index);
    const image = html("img", { src: url, alt: `${this.job.prompt}, ${method}, seed ${seed}` });
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < SMALL));
    picture.canvas = html("canvas", { "aria-hidden": "true" });
    picture.button = html("button", { type: "button", title: "Show this seed's curves" }, image, picture.canvas);
    for (const { text, group, box } of this.job.words) if (box) picture.button.append(outline(text, box, colourOf(group)));
    picture.button.addEventListener("click", () => this.set({ seed }));
    const title = "Download, its recipe inside";
    const link = html("a", { href: url, download: name, title, "aria-label": `Download ${name}` }, "PNG");
    const caption = html("figcaption", {}, html("span", {}, `seed ${seed}`), link);
    const row = byId("rows").children[this.job.methods.indexOf(method)];
    row.hidden = false;
    row.querySelector(".pictures").append(html("figure", {}, picture.button, caption));
    this.draw();
  }

  draw() {
    if (!this.pictures.length) return;
    const word = this.pointed ?? this.pinned;
    const moment = Number(byId("call").value);
    const call = moment === 0 ? null : moment - 1;
    const { maps, timesteps } = this.pictures[0];
    byId("when").textContent =
      call === null ? `mean of all ${maps.calls} calls` : `call ${moment} of ${maps.calls}, t = ${timesteps[call]}`;
    this.drawMaps(word, call);
    this.drawCurves(word === null ? null : this.job.words[word].group, call);
    for (const { button, seed } of this.pictures) button.setAttribute("aria-pressed", seed === this.seed);
    byId("words").querySelectorAll("button").forEach((button, index) => {
      button.classList.toggle("shown", index === word);
      button.setAttribute("aria-pressed", index === this.pinned);
    });
  }

  drawMaps(word, call) {
    byId("results").classList.toggle("looking", word !== null);
    byId("scale").hidden = word === null;
    byId("hint").hidden = word !== null;
    if (word === null) return;
    const maps = this.pictures.map((picture) => mapOf(picture.values, picture.maps, word, call));
    const high = Math.max(...maps.map(largest));
    byId("high").textContent = `${high.toPrecision(2)} for “${this.job.words[word].text}”`;
    this.pictures.forEach(({ canvas, maps: { width, height } }, index) => this.paint(canvas, maps[index], width, height, high));
  }

  // Charts of one quantity share their scale, whatever the method and the seed.
  drawCurves(group, call) {
    this.job.methods.forEach((method, index) => {
      const picture = this.pictures.find((other) => other.method === method && other.seed === this.seed);
      const charts = Object.entries(picture?.lines ?? {}).filter(([, lines]) => lines.length);
      byId("rows").children[index].querySelector(".charts").replaceChildren(
        ...charts.map(([quantity, lines]) => {
          const values = this.pictures.flatMap((other) => other.lines[quantity].flatMap((line) => line.values));
          const range = [Math.min(...values, quantity === "intensity" ? 0 : 1), Math.max(...values)];
          const name = quantity[0].toUpperCase() + quantity.slice(1);
          const heading = html("h3", {}, name, html("span", {}, MEANINGS[quantity]), html("span", {}, `seed ${this.seed}`));
          const labels = lines.map((line) => line.label).join(", ");
          const about = `${quantity} over the model calls, ${method}, seed ${this.seed}: ${labels}`;
          const drawing = chart(lines, range, picture.timesteps, call, group, about);
          return html("div", { class: "chart" }, heading, drawing, legend(lines));
        }),
      );
    });
  }
}

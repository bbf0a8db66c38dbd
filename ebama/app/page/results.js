// What a job made: the prompt's words, and a row of pictures and curves for each method.

import { columns, html, picker, Viewer } from "/viewer/viewer.js";
import { chart, legend } from "./curves.js";
import { byId } from "./dom.js";
import * as server from "./server.js";

const MEANINGS = { intensity: "smoothed peak", similarity: "cosine of scores" };

export class Results {
  constructor(facts) {
    this.viewer = new Viewer(byId("results"), byId("viewer"), facts, (word, call) => this.draw(word, call));
    this.changes = Object.fromEntries(facts.methods.map(({ name, changes }) => [name, changes]));
    this.clear();
  }

  clear() {
    Object.assign(this, { job: null, pictures: [], seed: null, layer: 0 });
    this.viewer.start([]);
    for (const id of ["rows", "notes", "sites", "layers"]) byId(id).replaceChildren();
    byId("results").hidden = true;
  }

  // Called for every answer about the job: takes in the pictures that are new.
  async update(job) {
    if (this.job?.id !== job.id) {
      this.clear();
      this.start(job);
    }
    while (this.pictures.length < job.pictures.length) {
      const index = this.pictures.length;
      const { layer } = this;
      const [facts, values] = await Promise.all([server.picture(job.id, index), server.maps(job.id, index, layer)]);
      if (this.job?.id !== job.id) return; // another job took the page meanwhile
      if (this.pictures.length === index && this.layer === layer) this.add({ ...job.pictures[index], ...facts, values, index });
    }
  }

  start(job) {
    this.job = job;
    this.seed = job.seeds[0];
    columns(byId("rows"), job.seeds.length);
    byId("notes").append(...job.notes.map((note) => html("li", {}, note)));
    this.viewer.start(job.words);
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
    byId("results").hidden = false;
    if (picture.index === 0) byId("layers").append(...picker(picture.layers, (layer) => this.choose(layer)));
    this.describe();
    picture.url = server.pngOf(this.job.id, picture.index);
    picture.alt = `${this.job.prompt}, ${method}, ${this.origin(seed)}`;
    picture.button = html("button", { type: "button", title: "Show this seed's curves" });
    picture.button.addEventListener("click", () => {
      this.seed = seed;
      this.viewer.draw();
    });
    const title = "Download, its recipe inside";
    const link = html("a", { href: picture.url, download: name, title, "aria-label": `Download ${name}` }, "PNG");
    const caption = html("figcaption", {}, html("span", {}, this.origin(seed)), link);
    const row = byId("rows").children[this.job.methods.indexOf(method)];
    row.hidden = false;
    row.querySelector(".pictures").append(html("figure", {}, picture.button, caption));
    this.viewer.add(picture, picture.button);
  }

  // Where a picture comes from.
  origin(seed) {
    return this.job.request.image?.invert ? "inverted" : `seed ${seed}`;
  }

  describe() {
    const { of, layer, head } = this.pictures[0].layers[this.layer];
    byId("sites").textContent = `Maps: ${layer}, ${head}, ${of}; each word on one scale for all pictures.`;
  }

  // The maps of other layers or heads, for the pictures that there are.
  async choose(layer) {
    const { job } = this;
    this.layer = layer;
    const shown = [...this.pictures];
    const values = await Promise.all(shown.map(({ index }) => server.maps(job.id, index, layer)));
    if (this.job?.id !== job.id || this.layer !== layer) return; // another choice came meanwhile
    shown.forEach((picture, index) => (picture.values = values[index]));
    this.describe();
    this.viewer.draw();
  }

  draw(word, call) {
    this.drawCurves(word === null ? null : this.job.words[word].group, call);
    for (const { button, seed } of this.pictures) button.setAttribute("aria-pressed", seed === this.seed);
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
          const heading = html("h3", {}, name, html("span", {}, MEANINGS[quantity]), html("span", {}, this.origin(this.seed)));
          const labels = lines.map((line) => line.label).join(", ");
          const about = `${quantity} over the model calls, ${method}, ${this.origin(this.seed)}: ${labels}`;
          const drawing = chart(lines, range, picture.timesteps, call, group, about);
          return html("div", { class: "chart" }, heading, drawing, legend(lines));
        }),
      );
    });
  }
}

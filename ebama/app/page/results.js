// What a job made: the prompt's words, a row of pictures and curves for each method.

import { COLOURS, chart, legend } from "./curves.js";
import { Painter, largest, mapOf } from "./maps.js";
import * as server from "./server.js";

const MEANINGS = { intensity: "smoothed peak", similarity: "cosine of scores" };
const SMALL = 256; // pixels of a picture that is shown enlarged, its pixels kept as they are

const byId = (id) => document.getElementById(id);

function make(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

export class Results {
  constructor(facts) {
    this.painter = new Painter(facts.colours);
    this.painter.ramp(byId("ramp"));
    this.changes = Object.fromEntries(facts.methods.map(({ name, changes }) => [name, changes]));
    byId("results").style.setProperty("--opacity", facts.opacity);
    byId("call").addEventListener("input", () => this.draw());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.pin(null);
    });
    this.clear();
  }

  clear() {
    Object.assign(this, { job: null, pictures: [], pinned: null, pointed: null, seed: null });
    for (const id of ["words", "rows", "notes", "sites"]) byId(id).replaceChildren();
    byId("call").value = 0;
    for (const id of ["results", "moment", "scale"]) byId(id).hidden = true;
  }

  // Called for every answer about the job: takes in the pictures that are new.
  async update(job) {
    if (this.job?.id !== job.id) {
      this.clear();
      this.start(job);
    }
    while (this.pictures.length < job.pictures.length) {
      const index = this.pictures.length;
      const [facts, maps] = await Promise.all([server.picture(job.id, index), server.maps(job.id, index)]);
      if (this.job?.id !== job.id) return; // another job took the page meanwhile
      if (this.pictures.length === index) this.add({ ...job.pictures[index], ...facts, values: maps, index });
    }
  }

  start(job) {
    this.job = job;
    const columns = Math.min(job.seeds.length, 4);
    byId("rows").style.setProperty("--columns", columns);
    byId("rows").style.setProperty("--side", `${[200, 200, 160, 140][columns - 1]}px`);
    this.seed = job.seeds[0];
    byId("notes").append(...job.notes.map((note) => make("li", { textContent: note })));
    job.words.forEach((word, index) => {
      const button = make("button", { type: "button", textContent: word.text, className: word.role });
      if (word.group !== null) button.classList.add(`g${word.group % COLOURS}`);
      button.setAttribute("aria-pressed", "false");
      const point = (to) => () => this.point(to);
      button.addEventListener("pointerenter", point(index));
      button.addEventListener("pointerleave", point(null));
      button.addEventListener("focus", point(index));
      button.addEventListener("blur", point(null));
      button.addEventListener("click", () => this.pin(this.pinned === index ? null : index));
      byId("words").append(button, " ");
    });
    for (const method of job.methods) {
      const about = this.changes[method.split("+")[0]];
      const row = make("div", { className: "row" });
      row.append(
        make("h2", {}, method, make("small", { textContent: about === "nothing" ? "changes nothing" : about })),
        make("div", { className: "pictures" }),
        make("div", { className: "charts" }),
      );
      row.hidden = true;
      byId("rows").append(row);
    }
  }

  add(picture) {
    this.pictures.push(picture);
    const { calls } = picture.maps;
    byId("results").hidden = false;
    byId("moment").hidden = false;
    byId("call").max = calls;
    byId("sites").textContent = `Maps: ${picture.sites}, probabilities after softmax; each word on one scale for all pictures.`;
    const url = server.pngOf(this.job.id, picture.index);
    const alt = `${this.job.prompt}, ${picture.method}, seed ${picture.seed}`;
    const image = make("img", { src: url, alt });
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < SMALL));
    picture.canvas = make("canvas");
    picture.canvas.setAttribute("aria-hidden", "true");
    picture.button = make("button", { type: "button", title: "Show this seed's curves" }, image, picture.canvas);
    picture.button.addEventListener("click", () => {
      this.seed = picture.seed;
      this.draw();
    });
    const link = make("a", { href: url, download: picture.name, textContent: "PNG", title: "Download, its recipe inside" });
    link.setAttribute("aria-label", `Download ${picture.name}`);
    const row = byId("rows").children[this.job.methods.indexOf(picture.method)];
    row.hidden = false;
    row.querySelector(".pictures").append(
      make("figure", {}, picture.button, make("figcaption", {}, make("span", { textContent: `seed ${picture.seed}` }), link)),
    );
    this.draw();
  }

  point(word) {
    this.pointed = word;
    this.draw();
  }

  pin(word) {
    this.pinned = word;
    this.draw();
  }

  draw() {
    if (!this.pictures.length) return;
    const word = this.pointed ?? this.pinned;
    const moment = Number(byId("call").value);
    const call = moment === 0 ? null : moment - 1;
    const { calls } = this.pictures[0].maps;
    byId("when").textContent = call === null ? `mean of all ${calls} calls` : `call ${moment} of ${calls}, t = ${this.pictures[0].timesteps[call]}`;
    this.drawMaps(word, call);
    this.drawCurves(word === null ? null : this.job.words[word].group, call);
    for (const picture of this.pictures) picture.button.setAttribute("aria-pressed", String(picture.seed === this.seed));
    byId("words").querySelectorAll("button").forEach((button, index) => {
      button.classList.toggle("shown", index === word);
      button.setAttribute("aria-pressed", String(index === this.pinned));
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
    this.pictures.forEach((picture, index) => {
      this.painter.paint(picture.canvas, maps[index], picture.maps.width, picture.maps.height, high);
    });
  }

  // Charts of one quantity share their scale, whatever the method and the seed.
  drawCurves(group, call) {
    this.job.methods.forEach((method, index) => {
      const picture = this.pictures.find((one) => one.method === method && one.seed === this.seed);
      const charts = Object.entries(picture?.lines ?? {}).filter(([, lines]) => lines.length);
      byId("rows").children[index].querySelector(".charts").replaceChildren(
        ...charts.map(([quantity, lines]) => {
          const values = this.pictures.flatMap((one) => one.lines[quantity].flatMap((line) => line.values));
          const range = [Math.min(...values, quantity === "intensity" ? 0 : 1), Math.max(...values)];
          const title = make("h3", {}, `${quantity[0].toUpperCase()}${quantity.slice(1)}`);
          title.append(make("span", { textContent: MEANINGS[quantity] }), make("span", { textContent: `seed ${this.seed}` }));
          const about = `${quantity} over the model calls, ${method}, seed ${this.seed}: ${lines.map((line) => line.label).join(", ")}`;
          return make("div", { className: "chart" }, title, chart(lines, range, picture.timesteps, call, group, about), legend(lines));
        }),
      );
    });
  }
}

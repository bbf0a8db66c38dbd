"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const { methods, seeds, sets, scores, texts, failures, prompts, baseline, columns } = data;
  const grid = byId("grid");
  const boxes = [...byId("methods").querySelectorAll("input")];

  const make = (tag, text = "", attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  // A place is a picture's number within its prompt: method by method, seed by seed.
  const place = (method, seed) => method * seeds.length + seed;
  const isFailed = (picture) => picture.failure !== undefined;
  const isJudged = (picture) => isFailed(picture) || scores.some(({ share }, at) => share && picture.scores[at] !== null);
  const verdict = (picture) => (isFailed(picture) ? failures[picture.failure].name : isJudged(picture) ? "no failure" : "");

  const items = [...grid.querySelectorAll("tbody tr")].map((row, index) => {
    const item = { ...prompts[index], row, index, url: null };
    item.places = item.pictures.map((picture, at) => {
      const [method, seed] = [Math.floor(at / seeds.length), at % seeds.length];
      return picture && { ...picture, item, at, method, seed, button: null, matches: true };
    });
    item.pictures = item.places.filter(Boolean);
    return item;
  });

  // --- thumbnails: a sheet for each prompt, decoded while its row is near the window ---
  const openSheet = (index) => {
    const text = byId(`sheet${index}`).textContent;
    if (!text) return "";
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return URL.createObjectURL(new Blob([bytes], { type: "image/webp" }));
  };
  const paint = (element, picture) => {
    element.classList.add("pic");
    if (isFailed(picture)) {
      element.classList.add("failed");
      element.dataset.badge = failures[picture.failure].badge;
    }
    if (!picture.file || !picture.item.url) return element;
    const lines = Math.ceil((methods.length * seeds.length) / columns);
    const percent = (at, count) => (count > 1 ? (100 * at) / (count - 1) : 0);
    const [left, top] = [percent(picture.at % columns, columns), percent(Math.floor(picture.at / columns), lines)];
    element.style.backgroundImage = `url("${picture.item.url}")`;
    element.style.backgroundSize = `${columns * 100}% ${lines * 100}%`;
    element.style.backgroundPosition = `${left}% ${top}%`;
    element.append(drawBoxes(picture.item.boxes));
    return element;
  };
  const drawBoxes = (boxes) => {
    const layer = make("span", "", { class: "boxes" });
    const [across, down] = data.shape; // of the square that a thumbnail is, the rest is white
    for (const [word, [left, top, right, bottom]] of Object.entries(boxes)) {
      const box = make("span", word);
      const start = { left: (1 - across) / 2 + left * across, top: (1 - down) / 2 + top * down };
      const sides = { ...start, width: (right - left) * across, height: (bottom - top) * down };
      for (const [side, share] of Object.entries(sides)) box.style[side] = `${100 * share}%`;
      layer.append(box);
    }
    return layer;
  };

  // --- the grid ---
  let current = null; // the picture that Tab comes to
  const choose = (picture) => {
    if (!picture) return;
    if (current?.button) current.button.tabIndex = -1;
    current = picture;
    current.button.tabIndex = 0;
  };
  const fill = (item) => {
    if (item.url !== null) return;
    item.url = openSheet(item.index);
    item.row.querySelectorAll(".cell").forEach((cell, method) => {
      const button = (picture) => {
        if (!picture) return make("span");
        const label = [`${methods[method]}, seed ${seeds[picture.seed]}`, verdict(picture)].filter(Boolean).join(": ");
        const attributes = { type: "button", tabindex: "-1", title: label, "aria-label": `${item.text}; ${label}` };
        picture.button = paint(make("button", "", attributes), picture);
        picture.button.picture = picture;
        return picture.button;
      };
      cell.append(...item.places.slice(place(method, 0), place(method + 1, 0)).map(button));
    });
    update(item);
  };
  const empty = (item) => {
    if (item.url === null || item.row.contains(document.activeElement)) return;
    if (item.url) URL.revokeObjectURL(item.url);
    item.url = null;
    for (const picture of item.pictures) picture.button = null;
    for (const cell of item.row.querySelectorAll(".cell")) cell.replaceChildren();
  };
  const update = (item) => {
    const filled = item.pictures.filter(({ button }) => button);
    for (const { button, matches } of filled) button.classList.toggle("out", !matches);
    if (!(current?.button && current.matches)) choose(filled.find(({ matches }) => matches));
  };

  // --- what is asked for ---
  const gain = ({ item, seed, scores }) => {
    const other = item.places[place(baseline, seed)];
    const at = byId("score").value;
    if (!other || other.scores[at] === null || scores[at] === null) return 0;
    return (data.scores[at].lessIsBetter ? -1 : 1) * (scores[at] - other.scores[at]);
  };
  const tests = {
    all: () => true,
    failures: isFailed,
    better: (picture) => gain(picture) > 0,
    worse: (picture) => gain(picture) < 0,
  };
  const apply = () => {
    const [set, show] = [byId("set").value, byId("show").value];
    const words = byId("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const test = tests[show] || ((picture) => picture.failure === Number(show));
    byId("score").parentElement.hidden = !["better", "worse"].includes(show);
    let [matching, among, all] = [0, 0, 0];
    for (const item of items) {
      const { pictures } = item;
      for (const picture of pictures) picture.matches = boxes[picture.method].checked && test(picture);
      const judged = pictures.filter((picture) => boxes[picture.method].checked && isJudged(picture));
      const failed = judged.filter(isFailed).length;
      item.row.querySelector("th div").textContent = judged.length ? `${item.set}; ${failed} of ${judged.length} failed` : item.set;
      const matches = pictures.filter((picture) => picture.matches).length;
      const named = (set === "" || item.set === sets[set]) && words.every((word) => item.text.toLowerCase().includes(word));
      item.row.hidden = !named || !matches;
      all += pictures.length;
      if (item.row.hidden) {
        empty(item);
        continue;
      }
      update(item);
      matching += matches;
      among += 1;
    }
    for (const row of grid.querySelectorAll("tr")) {
      [...row.cells].slice(1).forEach((cell, method) => (cell.hidden = !boxes[method].checked));
    }
    byId("count").textContent = `${matching} of ${all} pictures, ${among} of ${items.length} prompts`;
  };

  // --- one picture beside those of the other methods ---
  const dialog = byId("closer");
  let open = null;
  const figure = (picture, isChosen) => {
    const caption = make("figcaption");
    const say = (text) => caption.append(make("div", text));
    caption.append(make("b", methods[picture.method]));
    say(verdict(picture));
    scores.forEach(({ name, share }, at) => {
      const value = picture.scores[at];
      say(`${name}: ${value === null ? "-" : share ? (value ? "yes" : "no") : value.toFixed(3)}`);
    });
    texts.forEach((name, at) => picture.texts[at] && say(`${name}: ${picture.texts[at]}`));
    if (picture.error) say(picture.error);
    if (picture.file) {
      const address = `./${picture.file.split("/").map(encodeURIComponent).join("/")}`;
      caption.append(make("a", "the file", { href: address, target: "_blank", rel: "noopener" }));
    }
    const view = make("div", "", { role: "img", "aria-label": `${methods[picture.method]}: ${verdict(picture)}` });
    const element = make("figure", "", isChosen ? { class: "chosen" } : {});
    element.append(paint(view, picture), caption);
    return element;
  };
  const show = (item, seed, method) => {
    fill(item);
    open = { item, seed, method };
    byId("closer-title").textContent = `${item.text}, seed ${seeds[seed]}`;
    const pictures = item.pictures.filter((picture) => picture.seed === seed && boxes[picture.method].checked);
    byId("closer-pictures").replaceChildren(...pictures.map((picture) => figure(picture, picture.method === method)));
    if (!dialog.open) dialog.showModal();
  };
  const step = (by) => show(open.item, (open.seed + by + seeds.length) % seeds.length, open.method);
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  // --- moving about ---
  const pictureOf = (event) => event.target.closest("button.pic")?.picture;
  grid.addEventListener("click", (event) => {
    const picture = pictureOf(event);
    if (!picture) return;
    choose(picture);
    show(picture.item, picture.seed, picture.method);
  });
  grid.addEventListener("keydown", (event) => {
    const from = pictureOf(event);
    const [beside, below] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] || [0, 0];
    if (!from || !(beside || below)) return;
    event.preventDefault();
    const visible = items.filter(({ row }) => !row.hidden);
    const item = visible[visible.indexOf(from.item) + below];
    if (!item) return;
    fill(item);
    const usable = item.pictures.filter(({ matches }) => matches);
    const to = below ? usable.find(({ at }) => at === from.at) || usable[0] : usable[usable.indexOf(from) + beside];
    if (!to) return;
    choose(to);
    to.button.focus();
    to.button.scrollIntoView({ block: "nearest", inline: "nearest" });
  });

  // --- controls ---
  const across = Math.ceil(Math.sqrt(seeds.length));
  const size = byId("size");
  const resize = () => grid.style.setProperty("--size", `${size.value}px`);
  grid.style.setProperty("--across", across);
  grid.style.setProperty("--down", Math.ceil(seeds.length / across));
  size.value = Math.min(96, Math.max(48, data.side));
  size.addEventListener("input", resize);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("input", (event) => event.target !== size && apply());
  resize();
  apply();
  const near = new IntersectionObserver(
    (entries) => entries.forEach(({ target, isIntersecting }) => (isIntersecting ? fill : empty)(items[target.sectionRowIndex])),
    { root: grid, rootMargin: "600px" },
  );
  for (const { row } of items) near.observe(row);
})();

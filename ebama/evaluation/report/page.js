"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const { methods, seeds, sets, scores, texts, failures, prompts, baseline, columns } = data;
  const [FAILURE, FILE, SCORES, TEXTS, ERROR] = [0, 1, 2, 3, 4];
  const lines = Math.ceil((methods.length * seeds.length) / columns);
  const grid = byId("grid");
  const body = grid.querySelector("tbody");

  const make = (tag, text = "", attributes = {}) => {
    const element = document.createElement(tag);
    element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const place = (method, seed) => method * seeds.length + seed;
  const isFailed = (picture) => picture[FAILURE] >= 0;
  const isShown = (method) => byId("methods").querySelectorAll("input")[method].checked;
  const shown = (value, share) => (value === null ? "-" : share ? (value ? "yes" : "no") : value.toFixed(3));
  const isJudged = (picture) => isFailed(picture) || scores.some(({ share }, at) => share && picture[SCORES][at] !== null);
  const verdict = (picture) => (isFailed(picture) ? failures[picture[FAILURE]].name : isJudged(picture) ? "no failure" : "");
  const setVariable = (name, value) => grid.style.setProperty(name, value);

  // --- what is asked for ---
  const SHOW = {
    all: ["everything", () => true],
    failures: ["failures only", (entry, method, seed) => isFailed(entry.pictures[place(method, seed)])],
  };
  failures.forEach((failure, index) => {
    if (prompts.some((entry) => entry.pictures.some((picture) => picture && picture[FAILURE] === index))) {
      SHOW[`failure${index}`] = [failure.name, (e, m, s) => e.pictures[place(m, s)][FAILURE] === index];
    }
  });
  const gain = (entry, method, seed) => {
    const other = entry.pictures[place(baseline, seed)];
    const score = Number(byId("score").value);
    const values = [entry.pictures[place(method, seed)], other].map((picture) => picture && picture[SCORES][score]);
    return values.includes(null) || values.includes(undefined) ? 0 : values[0] - values[1];
  };
  if (baseline >= 0 && methods.length > 1 && scores.length) {
    SHOW.better = [`better than ${methods[baseline]}`, (...where) => gain(...where) > 0];
    SHOW.worse = [`worse than ${methods[baseline]}`, (...where) => gain(...where) < 0];
  }

  const wanted = () => {
    const words = byId("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const set = byId("set").value;
    const test = SHOW[byId("show").value][1];
    const on = methods.map((_, method) => isShown(method));
    return {
      prompt: (entry) => (set === "" || entry.set === sets[set]) && words.every((w) => entry.text.toLowerCase().includes(w)),
      picture: (entry, method, seed) => on[method] && entry.pictures[place(method, seed)] && test(entry, method, seed),
    };
  };

  // --- thumbnails: a sheet for each prompt, decoded while its row is near the window ---
  const openSheet = (index) => {
    const text = byId(`sheet${index}`).textContent;
    if (!text) return "";
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return URL.createObjectURL(new Blob([bytes], { type: "image/webp" }));
  };
  const paint = (element, url, index) => {
    if (!url) return;
    const percent = (at, count) => (count > 1 ? (100 * at) / (count - 1) : 0);
    const style = element.style;
    style.backgroundImage = `url("${url}")`;
    style.backgroundSize = `${columns * 100}% ${lines * 100}%`;
    style.backgroundPosition = `${percent(index % columns, columns)}% ${percent(Math.floor(index / columns), lines)}%`;
  };
  const mark = (element, picture) => {
    element.classList.add("pic");
    if (isFailed(picture)) {
      element.classList.add("failed");
      element.dataset.badge = failures[picture[FAILURE]].badge;
    }
  };

  // --- the grid ---
  let filter = null;
  let current = null; // the picture that Tab comes to
  const rows = prompts.map((entry, index) => {
    const row = make("tr");
    const head = make("th", entry.text, { scope: "row" });
    const note = head.appendChild(make("div"));
    row.append(head, ...methods.map(() => make("td")));
    for (const cell of row.querySelectorAll("td")) cell.append(make("div", "", { class: "cell" }));
    return { entry, index, row, note, url: null, buttons: [] };
  });
  body.append(...rows.map(({ row }) => row));

  const fill = (item) => {
    if (item.url !== null) return;
    item.url = openSheet(item.index);
    item.row.querySelectorAll(".cell").forEach((cell, method) => {
      seeds.forEach((seed, column) => {
        const picture = item.entry.pictures[place(method, column)];
        const label = `${methods[method]}, seed ${seed}`;
        const button = make("button", "", { type: "button", tabindex: "-1" });
        if (picture) {
          button.title = `${label}${verdict(picture) ? `: ${verdict(picture)}` : ""}`;
          button.setAttribute("aria-label", `${item.entry.text}; ${button.title}`);
          mark(button, picture);
          if (picture[FILE]) paint(button, item.url, place(method, column));
        }
        Object.assign(button, { item, method, column });
        item.buttons.push(button);
        cell.append(button);
      });
    });
    update(item);
  };
  const empty = (item) => {
    if (item.url === null || item.row.contains(document.activeElement)) return;
    if (item.url) URL.revokeObjectURL(item.url);
    if (current && current.item === item) current = null;
    item.row.querySelectorAll(".cell").forEach((cell) => cell.replaceChildren());
    Object.assign(item, { url: null, buttons: [] });
  };
  const update = (item) => {
    for (const button of item.buttons) {
      const out = !filter.picture(item.entry, button.method, button.column);
      button.classList.toggle("out", out);
      if (out && current === button) current = null;
    }
    if (!current) choose(item.buttons.find((button) => !button.classList.contains("out")));
  };
  const choose = (button) => {
    if (!button) return;
    if (current) current.tabIndex = -1;
    current = button;
    current.tabIndex = 0;
  };

  const apply = () => {
    filter = wanted();
    byId("score").parentElement.hidden = !["better", "worse"].includes(byId("show").value);
    let [found, among, pictures] = [0, 0, 0];
    for (const item of rows) {
      let [matching, failed, all] = [0, 0, 0];
      methods.forEach((_, method) => {
        seeds.forEach((__, seed) => {
          const picture = item.entry.pictures[place(method, seed)];
          if (!picture) return;
          pictures += 1;
          if (!isShown(method)) return;
          all += isJudged(picture);
          failed += isFailed(picture);
          matching += Boolean(filter.picture(item.entry, method, seed));
        });
      });
      const hidden = !filter.prompt(item.entry) || matching === 0;
      item.row.hidden = hidden;
      item.note.textContent = all ? `${item.entry.set}; ${failed} of ${all} failed` : item.entry.set;
      if (!hidden) [found, among] = [found + matching, among + 1];
      if (hidden) empty(item);
      else update(item);
    }
    const on = methods.map((_, method) => isShown(method));
    for (const row of grid.querySelectorAll("tr")) {
      [...row.children].slice(1).forEach((cell, method) => (cell.hidden = !on[method]));
    }
    byId("count").textContent = `${found} of ${pictures} pictures, ${among} of ${prompts.length} prompts`;
  };

  // --- one picture beside those of the other methods ---
  const dialog = byId("closer");
  let open = null;
  const show = (item, column, method) => {
    fill(item);
    open = { item, column, method };
    byId("closer-title").textContent = `${item.entry.text}, seed ${seeds[column]}`;
    const figures = methods.map((name, index) => {
      const picture = item.entry.pictures[place(index, column)];
      if (!picture || !isShown(index)) return null;
      const figure = make("figure", "", index === method ? { class: "chosen" } : {});
      const view = make("div", "", { role: "img", "aria-label": `${name}: ${verdict(picture)}` });
      mark(view, picture);
      if (picture[FILE]) paint(view, item.url, place(index, column));
      const caption = make("figcaption");
      caption.append(make("b", name), make("div", verdict(picture)));
      scores.forEach((score, at) => caption.append(make("div", `${score.name}: ${shown(picture[SCORES][at], score.share)}`)));
      texts.forEach((text, at) => picture[TEXTS][at] && caption.append(make("div", `${text}: ${picture[TEXTS][at]}`)));
      if (picture[ERROR]) caption.append(make("div", picture[ERROR]));
      if (picture[FILE]) {
        const address = `./${picture[FILE].split("/").map(encodeURIComponent).join("/")}`;
        caption.append(make("a", "the file", { href: address, target: "_blank", rel: "noopener" }));
      }
      figure.append(view, caption);
      return figure;
    });
    byId("closer-pictures").replaceChildren(...figures.filter(Boolean));
    if (!dialog.open) dialog.showModal();
  };
  const step = (by) => show(open.item, (open.column + by + seeds.length) % seeds.length, open.method);
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });

  // --- moving about ---
  grid.addEventListener("click", (event) => {
    const button = event.target.closest("button.pic");
    if (button) {
      choose(button);
      show(button.item, button.column, button.method);
    }
  });
  grid.addEventListener("keydown", (event) => {
    const from = event.target.closest("button.pic");
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!from || !by) return;
    event.preventDefault();
    const usable = (button) => button.classList.contains("pic") && !button.classList.contains("out");
    let to = null;
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const all = from.item.buttons.filter(usable);
      to = all[all.indexOf(from) + by];
    } else {
      const visible = rows.filter(({ row }) => !row.hidden);
      const next = visible[visible.indexOf(from.item) + by];
      if (!next) return;
      fill(next);
      const same = next.buttons[place(from.method, from.column)];
      to = usable(same) ? same : next.buttons.find(usable);
    }
    if (!to) return;
    choose(to);
    to.focus();
    to.scrollIntoView({ block: "nearest", inline: "nearest" });
  });

  // --- controls ---
  const choice = (id, pairs) => byId(id).append(...pairs.map(([value, text]) => make("option", text, { value })));
  choice("set", [["", "all"], ...sets.map((name, index) => [index, name])]);
  choice("show", Object.entries(SHOW).map(([key, [text]]) => [key, text]));
  choice("score", scores.map(({ name }, index) => [index, name]));
  byId("methods").append(
    ...methods.map((name) => {
      const label = make("label");
      const box = make("input", "", { type: "checkbox" });
      box.checked = true;
      label.append(box, ` ${name}`);
      return label;
    }),
  );
  for (const { name, badge } of failures) {
    if (!Object.values(SHOW).some(([text]) => text === name)) continue;
    const item = make("span");
    item.append(make("span", badge, { class: "badge" }), ` ${name}`);
    byId("legend").append(item);
  }
  const top = make("tr");
  top.append(make("th", "prompt", { scope: "col" }), ...methods.map((name) => make("th", name, { scope: "col" })));
  grid.querySelector("thead").append(top);

  const across = Math.ceil(Math.sqrt(seeds.length));
  setVariable("--across", across);
  setVariable("--down", Math.ceil(seeds.length / across));
  const size = byId("size");
  size.value = Math.min(96, Math.max(48, data.side));
  const resize = () => setVariable("--size", `${size.value}px`);
  resize();
  size.addEventListener("input", resize);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("input", (event) => event.target !== size && apply());
  apply();

  const near = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) {
        const item = rows[target.sectionRowIndex];
        if (isIntersecting) fill(item);
        else empty(item);
      }
    },
    { root: grid, rootMargin: "600px" },
  );
  for (const { row } of rows) near.observe(row);
})();

// Curves as inline SVG: one line for each object, or pair of modifier and object, over the model calls.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [300, 150, 34, 4, 8, 22];
export const COLOURS = 6;
const DASHES = ["none", "6 3", "6 2 1 2", "1.5 2", "7 2 1 2 1 2", "2 4"];

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const format = (value) => String(Math.abs(value) < 1e-9 ? 0 : Number(value.toPrecision(3)));

// Round numbers that span [low, high] in two to five steps.
export function ticks(low, high) {
  const rough = (high - low) / 3 || 1;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((k) => k >= rough);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

// Colours tell groups apart, and so do dashes, which also differ within a group.
function dashOf(lines, index) {
  const { group } = lines[index];
  const before = lines.slice(0, index).filter((line) => line.group === group).length;
  return DASHES[(group + before) % DASHES.length];
}

// lines: [{label, group, values}]; range: [low, high] of all charts that are to be compared;
// call: where the moment is, or null; group: the one to bring out, or null.
export function chart(lines, range, timesteps, call, group, description) {
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": description });
  const marks = ticks(...range);
  const [low, high] = [marks[0], marks[marks.length - 1]];
  const count = timesteps.length;
  const x = (i) => LEFT + ((WIDTH - LEFT - RIGHT) * i) / Math.max(count - 1, 1);
  const y = (value) => TOP + ((HEIGHT - TOP - BOTTOM) * (high - value)) / (high - low);
  for (const mark of marks) {
    svg.append(
      element("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(mark), y2: y(mark) }),
      element("text", { x: LEFT - 6, y: y(mark) + 3.5, "text-anchor": "end" }, format(mark)),
    );
  }
  svg.append(
    element("text", { x: LEFT, y: HEIGHT - 6 }, `t = ${timesteps[0]}`),
    element("text", { x: WIDTH - RIGHT, y: HEIGHT - 6, "text-anchor": "end" }, `t = ${timesteps[count - 1]}`),
    element("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, `${count} model calls`),
  );
  if (call !== null) svg.append(element("line", { class: "now", x1: x(call), x2: x(call), y1: TOP, y2: HEIGHT - BOTTOM }));
  lines.forEach((line, index) => {
    const points = line.values.map((value, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`);
    const other = group !== null && line.group !== group ? " other" : "";
    svg.append(
      element("path", {
        class: `g${line.group % COLOURS}${other}`,
        d: points.join(count > 1 ? "" : "h1"),
        "stroke-dasharray": dashOf(lines, index),
      }),
    );
  });
  return svg;
}

export function legend(lines) {
  const list = document.createElement("ul");
  list.className = "legend";
  lines.forEach((line, index) => {
    const item = document.createElement("li");
    const swatch = element("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" });
    swatch.append(element("path", { class: `g${line.group % COLOURS}`, d: "M0 4H22", "stroke-dasharray": dashOf(lines, index) }));
    item.append(swatch, line.label);
    list.append(item);
  });
  return list;
}

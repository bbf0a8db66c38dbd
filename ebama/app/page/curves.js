// Curves as inline SVG: one line for each object, or pair of modifier and object, over the model calls.

import { colourOf, html, svg } from "/viewer/viewer.js";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [300, 150, 34, 4, 8, 22];
const DASHES = ["none", "6 3", "6 2 1 2", "1.5 2", "7 2 1 2 1 2", "2 4"];

const format = (value) => String(Math.abs(value) < 1e-9 ? 0 : Number(value.toPrecision(3)));

// Round numbers that span [low, high] in two to five steps.
function ticks(low, high) {
  const rough = (high - low) / 3 || 1;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((k) => k >= rough);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

// Colours tell groups apart, and so do dashes, which also differ within a group.
function path(lines, index, d, more = "") {
  const { group } = lines[index];
  const before = lines.slice(0, index).filter((line) => line.group === group).length;
  return svg("path", { class: colourOf(group) + more, d, "stroke-dasharray": DASHES[(group + before) % DASHES.length] });
}

// lines: [{label, group, values}]; range: [low, high] of all charts that are to be compared;
// call: where the moment is, or null; group: the one to bring out, or null.
export function chart(lines, range, timesteps, call, group, description) {
  const marks = ticks(...range);
  const [low, high] = [marks[0], marks[marks.length - 1]];
  const count = timesteps.length;
  const [right, bottom] = [WIDTH - RIGHT, HEIGHT - BOTTOM];
  const x = (i) => LEFT + ((right - LEFT) * i) / Math.max(count - 1, 1);
  const y = (value) => TOP + ((bottom - TOP) * (high - value)) / (high - low);
  const text = (x, y, anchor, content) => svg("text", { x, y, "text-anchor": anchor }, content);
  const line = (kind, x1, x2, y1, y2) => svg("line", { class: kind, x1, x2, y1, y2 });
  return svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": description },
    ...marks.flatMap((mark) => [
      line("grid", LEFT, right, y(mark), y(mark)),
      text(LEFT - 6, y(mark) + 3.5, "end", format(mark)),
    ]),
    text(LEFT, HEIGHT - 6, "start", `t = ${timesteps[0]}`),
    text(right, HEIGHT - 6, "end", `t = ${timesteps[count - 1]}`),
    text((LEFT + right) / 2, HEIGHT - 6, "middle", `${count} model calls`),
    ...(call === null ? [] : [line("now", x(call), x(call), TOP, bottom)]),
    ...lines.map(({ group: of, values }, index) => {
      const points = values.map((value, i) => `${i ? "L" : "M"}${x(i).toFixed(1)} ${y(value).toFixed(1)}`);
      return path(lines, index, points.join(count > 1 ? "" : "h1"), group !== null && of !== group ? " other" : "");
    }),
  );
}

export function legend(lines) {
  const items = lines.map(({ label }, index) => {
    const swatch = svg("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" }, path(lines, index, "M0 4H22"));
    return html("li", {}, swatch, label);
  });
  return html("ul", { class: "legend" }, ...items);
}

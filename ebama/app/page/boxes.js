// Boxes of objects: drawn with the mouse on a board, or written as text, which holds the truth.

import { html, outline } from "/viewer/viewer.js";
import { byId } from "./dom.js";

const SMALLEST = 1 / 16; // of the board's side; a smaller stroke is a slip
const rounded = (side) => Math.round(side * 100) / 100;

// {word: [left, top, right, bottom]} of the text; an Error for what is no box.
export function read() {
  const boxes = {};
  for (const part of byId("boxes").value.split(";").map((text) => text.trim()).filter(Boolean)) {
    const [, word, text] = part.match(/^(.+):([^:]*)$/) ?? [];
    const sides = text?.split(",").map((side) => (side.trim() ? Number(side) : NaN)) ?? [];
    if (sides.length !== 4 || sides.some(Number.isNaN)) {
      throw new Error(`“${part}” is no box; expected a word and left, top, right, bottom, as crown: 0, 0.2, 0.5, 0.8.`);
    }
    boxes[word.trim()] = sides;
  }
  return boxes;
}

function draw(extra = {}) {
  let boxes = {};
  try {
    boxes = read();
  } catch {} // said when the form is sent
  const entries = Object.entries({ ...boxes, ...extra });
  byId("board").replaceChildren(...entries.map(([word, sides], index) => outline(word, sides, `g${index % 6}`)));
}

export function write(boxes) {
  byId("boxes").value = Object.entries(boxes).map(([word, sides]) => `${word}: ${sides.join(", ")}`).join("; ");
  draw();
}

// Words of the prompt to choose from; the second of two is "dog#2".
export const offer = (words) => byId("offered").replaceChildren(...words.map((value) => html("option", { value })));

export function begin() {
  const board = byId("board");
  let from = null;
  const at = ({ clientX, clientY }) => {
    const { left, top, width, height } = board.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height].map((side) => rounded(Math.min(Math.max(side, 0), 1)));
  };
  const between = ([x1, y1], [x2, y2]) => [Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)];
  const word = () => byId("word").value.trim();
  board.addEventListener("pointerdown", (event) => {
    if (!word()) return byId("word").focus();
    from = at(event);
    board.setPointerCapture(event.pointerId);
  });
  board.addEventListener("pointermove", (event) => from && draw({ [word()]: between(from, at(event)) }));
  board.addEventListener("pointercancel", () => {
    from = null;
    draw();
  });
  board.addEventListener("pointerup", (event) => {
    if (!from) return;
    const sides = between(from, at(event));
    from = null;
    if (sides[2] - sides[0] < SMALLEST || sides[3] - sides[1] < SMALLEST) return draw();
    try {
      write({ ...read(), [word()]: sides });
    } catch {
      write({ [word()]: sides }); // text that could not be read gives way
    }
  });
  const [height, width] = [byId("height"), byId("width")];
  const shape = () => (board.style.aspectRatio = width.value / height.value || 1);
  for (const side of [height, width]) side.addEventListener("input", shape);
  byId("boxes").addEventListener("input", () => draw());
}

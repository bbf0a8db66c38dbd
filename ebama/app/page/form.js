// The form: what it asks for, and how an earlier request fills it again.

import { html } from "/viewer/viewer.js";
import * as boxes from "./boxes.js";
import { byId } from "./dom.js";
import * as picture from "./picture.js";
import * as words from "./words.js";

const CHOSEN = ["sd", "ebama"];
const SIMPLE = ["seeds", "steps", "guidance", "sampler", "negative_prompt"];
const sides = [byId("height"), byId("width")]; // of pictures in pixels
const ticks = () => [...byId("methods").querySelectorAll("input")];

export const size = () => sides.map((input) => Number(input.value));

export function describe({ model, side, multiple, dtype, device, version, vocabulary, limits, methods }) {
  const { name = model, nouns, colours } = vocabulary;
  byId("model").textContent = `${name} · ${side} × ${side} pixels · ${dtype} on ${device} · version ${version}`;
  if (nouns) byId("vocabulary").textContent = `It knows ${nouns.join(", ")}, in ${colours.join(", ")}.`;
  byId("steps").max = limits.steps;
  byId("guidance").max = limits.guidance;
  for (const input of sides) Object.assign(input, { value: side, defaultValue: side, min: multiple, max: limits.side, step: multiple });
  for (const { name, changes, reference } of methods) {
    const box = html("input", { type: "checkbox", name: "method", value: name });
    box.checked = CHOSEN.includes(name);
    byId("methods").append(html("label", { title: `${changes}. ${reference}` }, box, name));
  }
}

export function request() {
  const form = byId("request").elements;
  const image = picture.start();
  return {
    ...Object.fromEntries(SIMPLE.map((name) => [name, form[name].value])),
    ...(image?.invert ? { seeds: "0", sampler: "ddim" } : {}), // an inverted picture brings its noise
    prompt: form.prompt.value,
    groups: words.groups(),
    size: sides.map((input) => input.value),
    boxes: boxes.read(),
    methods: [...ticks().filter((box) => box.checked).map((box) => box.value), form.extra.value.trim()].filter(Boolean),
    image,
  };
}

export async function fill({ prompt, groups, size, boxes: placed, methods, image, ...simple }) {
  const form = byId("request").elements;
  for (const name of SIMPLE) form[name].value = simple[name];
  sides.forEach((input, index) => (input.value = size?.[index] ?? input.defaultValue));
  for (const box of ticks()) box.checked = methods.includes(box.value);
  form.extra.value = methods.find((name) => !ticks().some((box) => box.value === name)) ?? "";
  boxes.write(placed);
  await Promise.all([words.restore(prompt, groups), picture.restore(image)]);
}

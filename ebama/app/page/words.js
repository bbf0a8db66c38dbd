// The prompt word by word, as runs go by it; a click on a word changes what it is. Changes belong to the wording that
// they were made for: another one is read anew, and going back to it brings them back.

import { colourOf, html, wordButton } from "/viewer/viewer.js";
import { byId } from "./dom.js";
import * as server from "./server.js";

const PAUSE = 200; // milliseconds without typing, before a prompt is read
const HINT = "Click a word to change what it is: an object, what describes one, or ignored.";
const changes = new Map(); // prompt -> {groups, parsed}: those that were chosen and the parser's; groups are [object, [words]]
const typed = () => byId("prompt").value.split(/\s+/).filter(Boolean).join(" ");

let reading = { prompt: "", words: [], groups: [], problem: "" };
let chosen = null; // the name of the word whose roles are shown
let asked = 0;
let heard; // called with the names of the words

// What was chosen for the prompt as it stands; null for what the parser reads.
export const groups = () => changes.get(typed())?.groups ?? null;

function sorted(groups) {
  const place = (name) => reading.words.findIndex((word) => word.name === name);
  const order = (a, b) => place(a) - place(b);
  return groups.map(([object, words]) => [object, [...words].sort(order)]).sort(([a], [b]) => order(a, b));
}

// owner: the word itself to make it an object, an object that it is to describe, or "".
function change(name, owner) {
  const { prompt } = reading;
  const parsed = changes.get(prompt)?.parsed ?? reading.groups;
  const groups = reading.groups
    .filter(([object]) => object !== name)
    .map(([object, words]) => [object, [...words.filter((word) => word !== name), ...(object === owner ? [name] : [])]]);
  if (owner === name) groups.push([name, []]);
  keep(prompt, sorted(groups), sorted(parsed));
  return read();
}

function keep(prompt, groups, parsed) {
  if (JSON.stringify(groups) === JSON.stringify(parsed)) changes.delete(prompt);
  else changes.set(prompt, { groups, parsed });
}

// A prompt with the groups of an earlier run.
export async function restore(prompt, groups) {
  byId("prompt").value = prompt;
  changes.delete(typed());
  await read();
  if (!groups || reading.prompt !== typed()) return;
  keep(reading.prompt, sorted(groups), sorted(reading.groups));
  await read();
}

async function read() {
  const turn = ++asked;
  const prompt = typed();
  const nothing = { words: [], groups: [], problem: "" };
  const refused = (error) => ({ ...nothing, problem: error.message });
  const answer = prompt ? await server.words({ prompt, groups: groups() }).catch(refused) : nothing;
  if (turn !== asked) return; // it was typed on
  reading = { ...answer, prompt };
  if (!reading.words.some(({ name }) => name === chosen)) chosen = null;
  draw();
  heard(reading.words.map(({ name }) => name));
}

// The value that `change` takes for what a word is now.
const ownerOf = ({ name, role, group }) => (role === "object" ? name : role ? reading.groups[group][0] : "");
const roleOf = (owner, name) => (owner === name ? "an object" : owner ? `describes ${owner}` : "ignored");

function draw() {
  const { words, problem, prompt } = reading;
  const buttons = words.map((word) => {
    const { name } = word;
    const button = wordButton(word, { title: roleOf(ownerOf(word), name), "aria-expanded": name === chosen, "aria-controls": "roles" });
    button.classList.toggle("shown", name === chosen);
    button.addEventListener("click", () => choose(name === chosen ? null : name));
    return button;
  });
  byId("read").replaceChildren(...buttons.flatMap((button) => [button, " "]));
  const changed = changes.has(prompt);
  byId("anew").hidden = !changed;
  const anew = changes.size ? `Read anew: what you changed belongs to another wording. ${HINT}` : HINT;
  const none = problem && words.length ? "The parser sees no object here; click a word to make it one." : problem;
  byId("reading").textContent = none || (changed ? "Changed from what the parser reads." : words.length ? anew : "");
  drawRoles();
}

function drawRoles() {
  const panel = byId("roles");
  const hadFocus = panel.contains(document.activeElement);
  const word = reading.words.find(({ name }) => name === chosen);
  panel.hidden = !word;
  if (!word) return panel.replaceChildren();
  const objects = reading.groups.map(([object]) => object);
  const owners = [word.name, ...objects.filter((object) => object !== word.name), ""];
  const options = owners.map((owner) => {
    const radio = html("input", { type: "radio", name: "role", value: owner });
    radio.checked = owner === ownerOf(word);
    radio.addEventListener("change", () => change(word.name, owner));
    const group = objects.indexOf(owner);
    return html("label", { class: group < 0 ? "" : colourOf(group) }, radio, roleOf(owner, word.name));
  });
  panel.replaceChildren(html("legend", { class: "field" }, `“${word.name}” is`), ...options);
  if (hadFocus) panel.querySelector(":checked").focus();
}

function choose(name) {
  chosen = name;
  draw();
  const index = reading.words.findIndex((word) => word.name === name);
  if (index >= 0) byId("roles").querySelector(":checked").focus();
}

export function begin(told) {
  heard = told;
  let timer;
  byId("prompt").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(read, PAUSE);
  });
  byId("anew").addEventListener("click", () => {
    changes.delete(reading.prompt);
    byId("prompt").focus();
    read();
  });
  byId("roles").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const index = reading.words.findIndex(({ name }) => name === chosen);
    choose(null);
    byId("read").children[index].focus();
  });
  return read();
}

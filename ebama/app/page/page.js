// The form, and the job that this tab follows: its id stands in the address, so that a reload finds it again.

import { html } from "/viewer/viewer.js";
import * as boxes from "./boxes.js";
import { byId } from "./dom.js";
import { Results } from "./results.js";
import * as server from "./server.js";

const PAUSE = 250; // milliseconds between two questions about a job
const CHOSEN = ["sd", "ebama"];
const isBusy = (job) => job.state === "waiting" || job.state === "running";
const sides = [byId("height"), byId("width")]; // of pictures in pixels
let results;
let current = null;

function complain(error) {
  byId("error").textContent = error?.message ?? "";
  byId("error").hidden = !error;
}

function describe({ model, side, multiple, dtype, device, version, vocabulary, limits, methods }) {
  const { name = model, nouns, colours } = vocabulary;
  byId("model").textContent = `${name} · ${side} × ${side} pixels · ${dtype} on ${device} · version ${version}`;
  if (nouns) byId("vocabulary").textContent = `It knows ${nouns.join(", ")}, in ${colours.join(", ")}.`;
  byId("steps").max = limits.steps;
  byId("guidance").max = limits.guidance;
  for (const input of sides) Object.assign(input, { value: side, min: multiple, max: limits.side, step: multiple });
  for (const { name, changes, reference } of methods) {
    const box = html("input", { type: "checkbox", name: "method", value: name });
    box.checked = CHOSEN.includes(name);
    byId("methods").append(html("label", { title: `${changes}. ${reference}` }, box, name));
  }
}

function request() {
  const form = new FormData(byId("request"));
  const { method, extra, height, width, ...fields } = Object.fromEntries(form);
  return { ...fields, size: [height, width], boxes: boxes.read(), methods: [...form.getAll("method"), extra.trim()].filter(Boolean) };
}

function show(job) {
  const busy = isBusy(job);
  byId("progress").hidden = !busy && job.state !== "cancelled";
  byId("cancel").hidden = !busy;
  byId("bar").hidden = !busy;
  byId("bar").value = job.part ? (job.part - 1 + job.done / (job.total || 1)) / job.parts : 0;
  const before = job.ahead === 1 ? "1 job is before it" : `${job.ahead} jobs are before it`;
  const part = job.parts > 1 ? `, method ${job.part} of ${job.parts}` : "";
  byId("state").textContent = {
    waiting: `Waiting: ${job.ahead ? before : "it is next"}`,
    running: job.total ? `${job.doing}: model call ${job.done} of ${job.total}${part}` : "Starting",
    cancelled: "Cancelled",
  }[job.state] ?? "";
  if (job.state === "failed") complain(new Error(job.error));
}

async function follow(id) {
  current = id;
  history.replaceState(null, "", `#${id}`);
  while (current === id) {
    try {
      const job = await server.job(id);
      if (current !== id) return;
      show(job);
      await results.update(job);
      if (!isBusy(job)) return;
    } catch (error) {
      complain(error);
      byId("progress").hidden = true;
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

async function submit(event) {
  event.preventDefault();
  complain(null);
  byId("go").disabled = true;
  try {
    const job = await server.submit(request());
    if (current) server.cancel(current).catch(() => {}); // this tab wants another picture now
    results.clear();
    show(job);
    follow(job.id);
  } catch (error) {
    complain(error);
  } finally {
    byId("go").disabled = false;
  }
}

async function begin() {
  const facts = await server.model();
  results = new Results(facts);
  describe(facts);
  boxes.begin();
  byId("request").addEventListener("submit", submit);
  byId("cancel").addEventListener("click", () => server.cancel(current).then(show, complain));
  if (location.hash.length > 1) follow(location.hash.slice(1));
  document.body.dataset.ready = "yes";
}

begin().catch(complain);

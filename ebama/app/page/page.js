// The form, and the job that this tab follows: its id stands in the address, so that a reload finds it again.

import * as boxes from "./boxes.js";
import { byId } from "./dom.js";
import * as form from "./form.js";
import * as picture from "./picture.js";
import { Results } from "./results.js";
import * as server from "./server.js";
import * as words from "./words.js";

const PAUSE = 250; // milliseconds between two questions about a job
const isBusy = (job) => job.state === "waiting" || job.state === "running";
let results;
let current = null;

function complain(error) {
  byId("error").textContent = error?.message ?? "";
  byId("error").hidden = !error;
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

// again: called with the job's request, once it is known.
async function follow(id, again = () => {}) {
  current = id;
  history.replaceState(null, "", `#${id}`);
  while (current === id) {
    try {
      const job = await server.job(id);
      if (current !== id) return;
      show(job);
      again(job.request);
      again = () => {};
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

// changed: what is asked for otherwise than the form says.
async function submit(event, changed = {}) {
  event.preventDefault();
  complain(null);
  byId("restored").hidden = true;
  byId("go").disabled = true;
  try {
    const job = await server.submit({ ...form.request(), ...changed });
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

// A picture that this library made asks for itself again, unless it is to be started from.
async function recall({ request, name, note }, startFromIt) {
  await form.fill(request);
  const more = request.image ? "It began from a picture; choose that one too." : "";
  byId("told").textContent = [`Everything is set as ${name} was made.`, more, note].filter(Boolean).join(" ");
  byId("instead").onclick = () => {
    byId("restored").hidden = true;
    startFromIt();
  };
  byId("more").open = true;
  byId("restored").hidden = false;
}

function mapsOfThePicture(event) {
  const image = { id: picture.start().id, invert: true };
  submit(event, { image, methods: ["sd"], guidance: 1, seeds: "0", sampler: "ddim", boxes: {} });
}

async function begin() {
  const facts = await server.model();
  results = new Results(facts);
  form.describe(facts);
  boxes.begin();
  picture.begin(facts.limits, form.size, recall, complain);
  await words.begin(boxes.offer);
  for (const id of ["height", "width"]) byId(id).addEventListener("input", picture.suit);
  byId("request").addEventListener("submit", submit);
  byId("maps").addEventListener("click", mapsOfThePicture);
  byId("cancel").addEventListener("click", () => server.cancel(current).then(show, complain));
  if (location.hash.length > 1) follow(location.hash.slice(1), (request) => form.fill(request).catch(complain));
  document.body.dataset.ready = "yes";
}

begin().catch(complain);

// The form, and the job that this tab follows: its id stands in the address, so that a reload finds it again.

import { Results } from "./results.js";
import * as server from "./server.js";

const PAUSE = 250; // milliseconds between two questions about a job
const CHOSEN = ["sd", "ebama"];
const byId = (id) => document.getElementById(id);
let results;
let current = null;

function complain(error) {
  byId("error").textContent = error?.message ?? "";
  byId("error").hidden = !error;
}

function describe(facts) {
  const name = facts.model === "miniature" ? "embedded miniature" : facts.model;
  byId("model").textContent = `${name} · ${facts.side} × ${facts.side} pixels · ${facts.dtype} on ${facts.device} · version ${facts.version}`;
  const { nouns, colours } = facts.vocabulary;
  if (nouns) byId("vocabulary").textContent = `It knows ${nouns.join(", ")}, in ${colours.join(", ")}.`;
  byId("steps").max = facts.limits.steps;
  byId("guidance").max = facts.limits.guidance;
  byId("methods").append(
    ...facts.methods.map(({ name, changes, reference }) => {
      const label = document.createElement("label");
      const box = Object.assign(document.createElement("input"), { type: "checkbox", name: "method", value: name });
      box.checked = CHOSEN.includes(name);
      label.title = `${changes === "nothing" ? "changes nothing" : changes}. ${reference}`;
      label.append(box, name);
      return label;
    }),
  );
}

function order() {
  const form = new FormData(byId("order"));
  const extra = form.get("extra").trim();
  return {
    prompt: form.get("prompt"),
    methods: [...form.getAll("method"), ...(extra ? [extra] : [])],
    seeds: form.get("seeds"),
    steps: Number(form.get("steps")),
    guidance: Number(form.get("guidance")),
    sampler: form.get("sampler"),
    negative_prompt: form.get("negative"),
  };
}

function show(job) {
  const busy = job.state === "waiting" || job.state === "running";
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
      if (job.state !== "waiting" && job.state !== "running") return;
    } catch (error) {
      complain(error);
      byId("progress").hidden = true;
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

async function begin() {
  const facts = await server.model();
  results = new Results(facts);
  describe(facts);
  byId("order").addEventListener("submit", async (event) => {
    event.preventDefault();
    complain(null);
    byId("go").disabled = true;
    try {
      const job = await server.submit(order());
      if (current) server.cancel(current).catch(() => {}); // this tab wants another picture now
      results.clear();
      show(job);
      follow(job.id);
    } catch (error) {
      complain(error);
    } finally {
      byId("go").disabled = false;
    }
  });
  byId("cancel").addEventListener("click", () => server.cancel(current).then(show, complain));
  if (location.hash.length > 1) follow(location.hash.slice(1));
  document.body.dataset.ready = "yes";
}

begin().catch(complain);

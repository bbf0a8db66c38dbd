// What the server is asked; a refusal is an Error whose message is the server's one line.

async function ask(path, options) {
  const answer = await fetch(path, options).catch(() => {
    throw new Error("The server does not answer; is `train_free.py serve` still running?");
  });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.error ?? `The server answered ${answer.status}.`);
}

const json = async (path, options) => (await ask(path, options)).json();

export const model = () => json("/api/model");
export const job = (id) => json(`/api/jobs/${id}`);
export const cancel = (id) => json(`/api/jobs/${id}`, { method: "DELETE" });
const post = (path, request) =>
  json(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(request) });
export const submit = (request) => post("/api/jobs", request);
export const words = (request) => post("/api/words", request);
export const send = (file) => json("/api/pictures", { method: "POST", body: file });
export const upload = (id) => json(`/api/pictures/${id}`);
export const thumbnailOf = (id, height, width) => `/api/pictures/${id}/png?height=${height}&width=${width}`;
export const picture = (id, index) => json(`/api/jobs/${id}/pictures/${index}`);
export const pngOf = (id, index) => `/api/jobs/${id}/pictures/${index}/png`;
export const maps = async (id, index, layer) =>
  new Float32Array(await (await ask(`/api/jobs/${id}/pictures/${index}/maps?layer=${layer}`)).arrayBuffer());

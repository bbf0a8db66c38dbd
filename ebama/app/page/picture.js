// A picture of one's own to start from: chosen, dropped or pasted. One that this library made is a request of its own.

import { byId } from "./dom.js";
import * as server from "./server.js";

let limit; // bytes of a file
let recalled; // called with a picture that holds a request, and with what starts from it all the same
let complain;
let size; // height and width of the pictures to be made
let current = null; // {id, height, width, name}

const inverts = () => byId("invert").checked;

// What a request says of the picture; null without one.
export const start = () => current && { id: current.id, ...(inverts() ? { invert: true } : { strength: byId("strength").value }) };

// How a request says it again: {id, strength, invert}, perhaps without an id.
export async function restore(image) {
  show(null);
  if (!image) return;
  byId("own").open = true;
  byId(image.invert ? "invert" : "noise").checked = true;
  byId("strength").value = image.strength ?? byId("strength").value;
  if (image.id) show({ ...(await server.upload(image.id)), name: "The picture" });
  else suit();
}

function show(picture) {
  current = picture;
  for (const id of ["thumbnail", "starting", "without"]) byId(id).hidden = !picture;
  byId("file").value = "";
  if (picture) byId("own").open = true;
  suit();
}

// The thumbnail, and the fields that an inverted picture leaves without effect.
export function suit() {
  byId("covered").hidden = inverts();
  byId("inverted").hidden = !inverts();
  for (const id of ["seeds", "sampler"]) byId(id).disabled = current !== null && inverts();
  byId("fit").textContent = current ? "" : "Or drop one on the page, or paste it. A picture that was made here brings back all that it was made with.";
  const [height, width] = size();
  if (!current || !height || !width) return;
  const [scale, other] = [height / current.height, width / current.width];
  const larger = Math.max(scale, other);
  const sized = larger === 1 ? "taken as it is" : larger > 1 ? "enlarged" : "reduced";
  const cut = scale === other ? "" : `, then cut ${scale > other ? "left and right" : "above and below"}`;
  byId("fit").textContent = `${current.name}, ${current.width} × ${current.height} pixels: ${sized}${cut}, to ${width} × ${height}.`;
  byId("thumbnail").src = server.thumbnailOf(current.id, height, width);
}

async function take(file) {
  complain(null);
  try {
    if (file.size > limit) throw new Error(`${file.name} has ${file.size} bytes; expected at most ${limit}.`);
    const picture = { ...(await server.send(file)), name: file.name };
    if (picture.request) return await recalled(picture, () => show(picture));
    if (picture.note) complain(new Error(picture.note));
    show(picture);
  } catch (error) {
    complain(error);
  }
}

// sides: a function that says height and width; what is wrong goes to `complained`.
export function begin(limits, sides, recall, complained) {
  [limit, size, recalled, complain] = [limits.upload, sides, recall, complained];
  byId("file").addEventListener("change", ({ target }) => target.files.length && take(target.files[0]));
  byId("without").addEventListener("click", () => show(null));
  byId("own").addEventListener("change", suit);
  byId("thumbnail").addEventListener("load", ({ target }) => target.classList.toggle("small", target.naturalWidth < 256));
  document.addEventListener("paste", ({ clipboardData: { files } }) => files.length && take(files[0]));
  const dragged = (event) => {
    const brings = event.dataTransfer?.types.includes("Files");
    document.body.classList.toggle("dropping", Boolean(brings) && event.type === "dragover");
    if (brings) event.preventDefault();
    if (brings && event.type === "drop") take(event.dataTransfer.files[0]);
  };
  for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, dragged);
  suit();
}

// The list of the newest detections, one line for each record.

import { ask } from "/page/gateway.js";
import { draw, inWords } from "/page/draw.js";

const KEPT = 30;
const TELL_EVERY_MS = 1000; // of one stream; more lines a second nobody can read

const list = document.getElementById("newest");
const none = document.getElementById("newest-none");
const viewer = document.getElementById("viewer");
const picture = document.getElementById("viewer-picture");
const told = new Map(); // stream id -> when a line was last added

export function add(record, name) {
  const at = performance.now();
  if (at - (told.get(record.streamId) ?? -Infinity) < TELL_EVERY_MS) return;
  told.set(record.streamId, at);
  list.prepend(lineOf(record, name));
  trim();
}

// As REST has them: one by one, newest first.
export function fill(detections, nameOf) {
  const records = new Map();
  for (const one of detections) {
    const id = one.metadata.recordId;
    if (!records.has(id)) records.set(id, { ...one, detections: [] });
    records.get(id).detections.push(one);
  }
  list.append(...[...records.values()].map((record) => lineOf(record, nameOf(record.streamId))));
  trim();
}

function trim() {
  while (list.children.length > KEPT) list.lastElementChild.remove();
  none.hidden = list.children.length > 0;
}

function lineOf(record, name) {
  const line = document.createElement("li");
  const inner = document.createElement(record.imagePath ? "button" : "div");
  inner.className = record.imagePath ? "" : "still";
  const best = Math.max(...record.detections.map((one) => one.confidence));
  inner.append(
    text("what", inWords(record.detections)),
    text("when", new Date(record.timestamp).toLocaleTimeString()),
    text("where", `${name} · ${Math.round(best * 100)}%`),
  );
  if (record.imagePath) {
    inner.type = "button";
    inner.addEventListener("click", () => view(record, name));
  }
  line.append(inner);
  return line;
}

function text(className, content) {
  const span = document.createElement("span");
  span.className = className;
  span.textContent = content;
  return span;
}

async function view({ imagePath, detections, timestamp }, name) {
  const title = `${name}: ${inWords(detections)}, ${new Date(timestamp).toLocaleString()}`;
  document.getElementById("viewer-title").textContent = title;
  picture.getContext("2d").clearRect(0, 0, picture.width, picture.height);
  picture.setAttribute("aria-label", "The picture is being fetched");
  viewer.showModal();
  try {
    const blob = await (await ask(imagePath)).blob();
    draw(picture, await createImageBitmap(blob), detections);
    picture.setAttribute("aria-label", title);
  } catch (error) {
    document.getElementById("viewer-title").textContent = `No picture: ${error.message}`;
  }
}

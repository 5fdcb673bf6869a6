// One stream: its picture, and what is known of it.
//
// A picture is drawn together with the record of the same frame. The record comes a moment later
// by another way, so pictures wait for theirs as long as that lately took, within limits. While
// answered pictures keep coming, one without an answer is left out: boxes would only flicker.

import { draw, inWords } from "/page/draw.js";
import { watch } from "/page/pictures.js";

const SHORTEST_WAIT_MS = 600;
const LONGEST_WAIT_MS = 2500;
const RECORDS_KEPT = 60;
const PICTURES_KEPT = 15;
const ANSWERED_LATELY_MS = 1500;
const SPOKEN_EVERY_MS = 3000;

const template = document.getElementById("tile");
const tiles = new WeakMap();

const inSight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const tile = tiles.get(target);
    if (isIntersecting) tile.watching.show();
    else tile.watching.hide();
  }
}, { rootMargin: "100px" });

export class Tile {
  constructor(stream) {
    this.id = stream.id;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.element.dataset.streamId = stream.id;
    this.canvas = this.part("canvas");
    this.records = new Map(); // frame id -> detections
    this.pending = []; // pictures that wait for their record, oldest first
    this.answeredAt = -Infinity;
    this.asked = new Map(); // frame id -> when its picture came
    this.delay = 0; // of records behind their pictures, lately, in ms
    this.taken = this.drawn = 0; // pictures, by number
    this.spokenAt = -Infinity;
    this.watching = watch(this);
    tiles.set(this.element, this);
    inSight.observe(this.element);
    document.addEventListener("sight", () => this.watching.now());
    this.update(stream);
  }

  part(selector) {
    return this.element.querySelector(selector);
  }

  remove() {
    this.gone = true;
    inSight.unobserve(this.element);
    this.pending.forEach((picture) => this.forget(picture));
    this.element.remove();
  }

  get hasPictures() {
    return this.stream?.status === "RUNNING";
  }

  // Any fields of the Stream; those that are not given stay as they are.
  update(fields) {
    const before = this.stream?.status;
    this.stream = { ...this.stream, ...fields };
    const { name, status, fps, measured } = this.stream;
    this.fps = fps;
    this.part("h2").textContent = name;
    this.part("h2").title = name;
    this.part(".badge").textContent = status;
    this.element.dataset.status = status;
    this.part(".rate").textContent = measured ? `${measured.fps.toFixed(1)} fps` : "–";
    const lag = measured?.lagMsP50;
    this.part(".lag").textContent = lag == null ? "–" : `${Math.round(lag)} ms`;
    this.explain();
    this.age();
    if (status === "RUNNING" && before !== "RUNNING") this.watching.now();
    if (status !== "RUNNING" && before !== status) this.lack(`the stream is ${status}`);
  }

  explain() {
    const { reason, message, hint, rtspUrl, verifyTls } = this.stream;
    const isTrusting = verifyTls === false && rtspUrl?.startsWith("rtsps:");
    const line = this.part(".reason");
    line.hidden = !reason && !isTrusting;
    line.replaceChildren();
    if (!reason) {
      if (isTrusting) line.append("The camera's certificate is not checked (verifyTls: false)");
      return;
    }
    const code = document.createElement("b");
    code.textContent = reason;
    line.append(code, ...[message, hint].filter(Boolean).map((text) => ` · ${text}`));
  }

  age() {
    const at = Date.parse(this.stream.lastHeartbeat ?? "");
    this.part(".heartbeat").textContent = Number.isNaN(at) ? "–" : ago(Date.now() - at);
  }

  heard({ at, fps }) {
    const measured = { ...this.stream.measured, fps: fps.published };
    this.update({ lastHeartbeat: at, measured });
  }

  // A picture has come.
  take(frameId, blob) {
    if (this.gone || !this.hasPictures) return; // it was under way when the stream ended
    const picture = { frameId, blob, number: ++this.taken };
    this.pending.push(picture);
    remember(this.asked, frameId, performance.now());
    if (this.records.has(frameId) || !this.stream.detectionEnabled) return this.show(picture);
    if (this.pending.length > PICTURES_KEPT) this.giveUp(this.pending[0]);
    const wait = Math.max(SHORTEST_WAIT_MS, Math.min(LONGEST_WAIT_MS, 1.5 * this.delay));
    picture.timer = setTimeout(() => this.giveUp(picture), wait);
  }

  // A record has come.
  note({ frameId, detections, outcome = "ok" }) {
    if (this.asked.has(frameId)) {
      this.delay += 0.2 * (performance.now() - this.asked.get(frameId) - this.delay);
    }
    const picture = this.pending.find((one) => one.frameId === frameId);
    if (outcome === "ok") {
      remember(this.records, frameId, detections);
      if (picture) this.show(picture);
    } else if (picture) {
      this.giveUp(picture);
    }
  }

  // There is no answer to this picture, or not in time.
  giveUp(picture) {
    const lately = performance.now() - this.answeredAt < ANSWERED_LATELY_MS;
    if (lately) this.forget(picture);
    else this.show(picture);
  }

  async show(picture) {
    const { frameId, blob, number } = picture;
    for (const older of this.pending.filter((one) => one.number <= number)) this.forget(older);
    const bitmap = await createImageBitmap(blob).catch(() => null);
    if (!bitmap || number <= this.drawn || this.gone) return;
    this.drawn = number;
    const detections = this.records.get(frameId);
    if (detections) this.answeredAt = performance.now();
    draw(this.canvas, bitmap, detections ?? []);
    bitmap.close();
    this.element.dataset.live = "";
    this.element.dataset.frameId = frameId;
    this.element.dataset.boxes = detections?.length ?? 0;
    this.speak(detections ?? []);
  }

  forget(picture) {
    clearTimeout(picture.timer);
    this.pending = this.pending.filter((one) => one !== picture);
  }

  // No picture could be had.
  lack(why) {
    this.pending.forEach((picture) => this.forget(picture));
    this.drawn = this.taken; // also what is being decoded
    this.part(".veil").textContent = `no picture: ${why}`;
    delete this.element.dataset.live;
    this.canvas.setAttribute("aria-label", `No picture of ${this.stream.name}: ${why}`);
    this.spokenAt = -Infinity;
  }

  speak(detections) {
    if (performance.now() - this.spokenAt < SPOKEN_EVERY_MS) return;
    this.spokenAt = performance.now();
    const seen = inWords(detections) || "nothing recognised";
    this.canvas.setAttribute("aria-label", `Live picture of ${this.stream.name}: ${seen}`);
  }
}

function remember(map, frameId, value) {
  map.set(frameId, value);
  if (map.size > RECORDS_KEPT) map.delete(map.keys().next().value);
}

export function ago(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 100) return `${seconds} s ago`;
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? `${minutes} min ago` : `${Math.round(minutes / 60)} h ago`;
}

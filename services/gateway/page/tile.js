// One stream: its picture, and what is known of it.
//
// A picture is drawn together with the record of the same frame. The record comes a moment later
// by another way, so the picture waits for it, but not for long.

import { draw, inWords } from "/page/draw.js";
import { watch } from "/page/pictures.js";

const RECORD_WITHIN_MS = 600;
const RECORDS_KEPT = 60;
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
    this.pending = null;
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
    this.forget();
    this.element.remove();
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
    if (status !== "RUNNING" && before === "RUNNING") this.lack(`the stream is ${status}`);
  }

  explain() {
    const { reason, message, hint } = this.stream;
    const line = this.part(".reason");
    line.hidden = !reason;
    line.replaceChildren();
    if (!reason) return;
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
  take(frameId, bitmap) {
    this.forget();
    this.pending = { frameId, bitmap };
    if (this.records.has(frameId) || !this.stream.detectionEnabled) this.show();
    else this.pending.timer = setTimeout(() => this.show(), RECORD_WITHIN_MS);
  }

  // A record has come.
  note({ frameId, detections }) {
    this.records.set(frameId, detections);
    if (this.records.size > RECORDS_KEPT) this.records.delete(this.records.keys().next().value);
    if (this.pending?.frameId === frameId) this.show();
  }

  show() {
    const { frameId, bitmap, timer } = this.pending;
    clearTimeout(timer);
    this.pending = null;
    const detections = this.records.get(frameId) ?? [];
    draw(this.canvas, bitmap, detections);
    bitmap.close();
    this.element.dataset.live = "";
    this.element.dataset.frameId = frameId;
    this.element.dataset.boxes = detections.length;
    this.speak(detections);
  }

  // No picture could be had.
  lack(why) {
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

  // A newer picture came before this one was shown: show it with what is known, it is due.
  forget() {
    if (!this.pending) return;
    clearTimeout(this.pending.timer);
    if (this.gone) this.pending.bitmap.close();
    else this.show();
    this.pending = null;
  }
}

export function ago(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 100) return `${seconds} s ago`;
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? `${minutes} min ago` : `${Math.round(minutes / 60)} h ago`;
}

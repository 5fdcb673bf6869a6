// Puts the parts of the page together.

import { all, ask, forgetKey, keepKey, key, KeyNeeded } from "/page/gateway.js";
import { listen } from "/page/news.js";
import { add, fill } from "/page/newest.js";
import { Tile } from "/page/tile.js";

const REFRESH_MS = 5000; // of what only REST tells: names, rates
const AT_MOST_EVERY_MS = 500;
const STATES = { waiting: "connecting", open: "live", closed: "no connection, trying again" };

const tiles = new Map(); // stream id -> Tile
const place = document.getElementById("tiles");
const form = document.getElementById("key-form");
const connection = document.getElementById("connection");
let refreshing = null;
let listening = false;

const nameOf = (streamId) => tiles.get(streamId)?.stream.name ?? streamId;

async function refresh() {
  const streams = await all("/streams");
  const known = new Set(streams.map(({ id }) => id));
  for (const [id] of tiles) if (!known.has(id)) drop(id);
  for (const stream of streams.reverse()) {
    if (tiles.has(stream.id)) tiles.get(stream.id).update(stream);
    else show(stream);
  }
  tally();
}

function show(stream) {
  const tile = new Tile(stream);
  tiles.set(stream.id, tile);
  place.prepend(tile.element); // newest first, as in the list
}

function drop(id) {
  tiles.get(id)?.remove();
  tiles.delete(id);
  tally();
}

function tally() {
  const running = [...tiles.values()].filter(({ stream }) => stream.status === "RUNNING").length;
  const streams = tiles.size === 1 ? "1 stream" : `${tiles.size} streams`;
  document.getElementById("tally").textContent = tiles.size ? `${streams}, ${running} running` : "";
  document.getElementById("none").hidden = tiles.size > 0;
}

// Soon, and once for all who asked meanwhile.
function refreshSoon(pause = AT_MOST_EVERY_MS) {
  clearTimeout(refreshing);
  refreshing = setTimeout(async () => {
    try {
      await refresh();
    } catch (error) {
      if (error instanceof KeyNeeded) return askForKey();
    }
    refreshSoon(REFRESH_MS);
  }, pause);
}

const takers = {
  snapshot: ({ streams }) => streams.forEach(takers["stream:status"]),
  "stream:status": ({ streamId, ...status }) => {
    if (status.status === "DELETED") drop(streamId);
    if (tiles.has(streamId)) {
      const { reason, message, hint, since } = status;
      tiles.get(streamId).update({ status: status.status, reason, message, hint, since });
      tally();
    }
    refreshSoon();
  },
  "stream:heartbeat": (heartbeat) => tiles.get(heartbeat.streamId)?.heard(heartbeat),
  detection: (record) => {
    tiles.get(record.streamId)?.note(record);
    if (record.detections.length) add(record, nameOf(record.streamId));
  },
  gap: () => refreshSoon(),
};

function onState(state) {
  connection.dataset.state = state;
  connection.textContent = STATES[state];
}

function askForKey() {
  form.hidden = false;
  document.getElementById("none").hidden = true;
  const hint = document.getElementById("key-hint");
  if (key()) hint.textContent = "That key is not good for this. Try another one.";
  forgetKey();
  document.getElementById("key").focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = document.getElementById("key");
  keepKey(field.value.trim());
  field.value = "";
  form.hidden = true;
  begin();
});
document.addEventListener("keyneeded", askForKey);

async function begin() {
  try {
    await refresh();
  } catch (error) {
    if (error instanceof KeyNeeded) return askForKey();
    onState("closed");
  }
  refreshSoon(REFRESH_MS);
  if (listening) return;
  listening = true;
  listen({ onMessage: ({ event, data }) => takers[event]?.(data), onState });
  ask("/detections?limit=50")
    .then((response) => response.json())
    .then((detections) => fill(detections, nameOf))
    .catch(() => {}); // the list fills from the live news, too
}

document.getElementById("example").textContent =
  `curl ${location.origin}/streams -H 'Content-Type: application/json' ` +
  `-d '{"name": "door", "rtspUrl": "rtsp://camera.local/stream", "running": true}'`;
setInterval(() => tiles.forEach((tile) => tile.age()), 1000);
begin();

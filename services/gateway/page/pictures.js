// Newest pictures of the tiles that can be seen.
//
// A browser opens about six connections to one host, so no tile may hold one open: each asks for
// its next picture when the one before has arrived, and few ask at the same time.

import { ask, KeyNeeded, Refused } from "/page/gateway.js";

const AT_ONCE = 4;
const SHORTEST_MS = 200;
const CALM_MS = 1000; // for people who prefer less motion
const AGAIN_MS = 2000; // where there was no picture
const GIVE_UP_MS = 5000;

const calm = matchMedia("(prefers-reduced-motion: reduce)");
const waiting = []; // tiles that want a picture, who waits longest first
let asking = 0;

export function watch(tile) {
  tile.wanted = false;
  return {
    show() {
      tile.inSight = true;
      want(tile);
    },
    hide() {
      tile.inSight = false;
    },
    now() {
      clearTimeout(tile.timer);
      tile.timer = undefined;
      want(tile);
    },
  };
}

function want(tile) {
  if (tile.wanted || tile.timer || !tile.inSight || tile.gone || document.hidden) return;
  if (!tile.hasPictures) return; // it asks again once it runs
  tile.wanted = true;
  waiting.push(tile);
  next();
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) document.dispatchEvent(new Event("sight"));
});

function next() {
  while (asking < AT_ONCE && waiting.length) {
    const tile = waiting.shift();
    asking += 1;
    picture(tile)
      .catch(() => AGAIN_MS)
      .then((pause) => {
        asking -= 1;
        tile.wanted = false;
        tile.timer = setTimeout(() => {
          tile.timer = undefined;
          want(tile);
        }, pause);
        next();
      });
  }
}

// Answers how long to wait before the next one.
async function picture(tile) {
  const begun = performance.now();
  try {
    const response = await ask(`/streams/${tile.id}/frame`, AbortSignal.timeout(GIVE_UP_MS));
    const frameId = response.headers.get("X-Frame-Id");
    const blob = await response.blob();
    if (frameId !== tile.lastFrameId || !frameId) {
      tile.lastFrameId = frameId;
      tile.take(frameId, blob);
    }
  } catch (error) {
    if (error instanceof KeyNeeded) document.dispatchEvent(new Event("keyneeded"));
    tile.lack(error instanceof Refused ? error.message : "the gateway does not answer");
    return AGAIN_MS;
  }
  const period = Math.max(calm.matches ? CALM_MS : SHORTEST_MS, 1000 / (tile.fps || 5));
  return Math.max(0, period - (performance.now() - begun));
}

// The WebSocket, opened again with growing patience whenever it ends.

import { key } from "/page/gateway.js";

const SHORTEST_MS = 500;
const LONGEST_MS = 15_000;
const SETTLED_MS = 10_000; // a connection that held so long was a good one

export function listen({ onMessage, onState }) {
  let patience = SHORTEST_MS;

  function open() {
    const query = new URLSearchParams({ empty: "true" });
    if (key()) query.set("access_token", key());
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/ws?${query}`);
    let openedAt = Infinity;
    onState("waiting");
    socket.addEventListener("open", () => {
      openedAt = performance.now();
      onState("open");
    });
    socket.addEventListener("message", (message) => onMessage(JSON.parse(message.data)));
    socket.addEventListener("close", () => {
      if (performance.now() - openedAt > SETTLED_MS) patience = SHORTEST_MS;
      onState("closed");
      setTimeout(open, patience * (0.5 + Math.random() / 2));
      patience = Math.min(patience * 2, LONGEST_MS);
    });
  }

  open();
}

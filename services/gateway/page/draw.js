// A picture with what was seen in it.

const INK = "#0b0f12";

export function draw(canvas, bitmap, detections) {
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const size = Math.max(12, Math.round(canvas.width / 38));
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const detection of detections) box(context, detection, size);
}

function box(context, { label, confidence, normalizedBox }, size) {
  const { width, height } = context.canvas;
  const [x, y] = [normalizedBox.x * width, normalizedBox.y * height];
  const [w, h] = [normalizedBox.width * width, normalizedBox.height * height];
  context.lineWidth = Math.max(2, width / 320);
  context.strokeStyle = colour(label);
  context.strokeRect(x, y, w, h);
  const text = `${label} ${Math.round(confidence * 100)}%`;
  const plate = { width: context.measureText(text).width + size * 0.6, height: size * 1.3 };
  const top = y >= plate.height ? y - plate.height : y;
  const left = Math.max(0, Math.min(x - context.lineWidth / 2, width - plate.width));
  context.fillStyle = colour(label);
  context.fillRect(left, top, plate.width, plate.height);
  context.fillStyle = INK;
  context.fillText(text, left + size * 0.3, top + size * 0.18);
}

// The same label has the same colour, always one that dark ink can be read on.
function colour(label) {
  let hash = 7;
  for (const letter of label) hash = (hash * 31 + letter.codePointAt(0)) % 9973;
  return `hsl(${(hash * 137.5) % 360} 85% 68%)`;
}

export function inWords(detections) {
  const counts = new Map();
  for (const { label } of detections) counts.set(label, (counts.get(label) || 0) + 1);
  const ordered = [...counts].sort(([, a], [, b]) => b - a);
  return ordered.map(([label, count]) => (count > 1 ? `${count} × ${label}` : label)).join(", ");
}

// How long the reader waited, by mode: for the answer, and until the file was in S3.

import { duration } from "./words.js";

const table = document.querySelector("#times");
const taken = new Map();

export function note(mode, answerMs, totalMs) {
  if (!taken.has(mode)) taken.set(mode, { answer: [], total: [] });
  taken.get(mode).answer.push(answerMs);
  taken.get(mode).total.push(totalMs);
  show();
}

function show() {
  const longest = Math.max(...[...taken.values()].map(({ total }) => median(total)));
  for (const [mode, times] of taken) {
    const body = table.querySelector(`[data-mode=${mode}]`);
    const count = times.answer.length;
    body.querySelector("th small").textContent = count === 1 ? "1 file" : `${count} files`;
    for (const [kind, values] of Object.entries(times)) {
      const cell = body.querySelector(`[data-time=${kind}]`);
      cell.querySelector("b").textContent = duration(median(values));
      cell.querySelector("small").textContent = `last ${duration(values.at(-1))}`;
      // At least a hair's breadth, so that a quick answer is seen beside a slow one.
      const share = Math.max(median(values) / longest, 0.006);
      body.querySelector(`rect.${kind}`).setAttribute("width", `${(share * 100).toFixed(1)}%`);
    }
  }
  table.hidden = false;
  document.querySelector("#times-empty").hidden = true;
}

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

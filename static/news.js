// What a screen reader says: what has happened lately, in one breath.

const region = document.querySelector("#news");
const GATHER_MS = 1000;

let gathered = [];
let timer = null;

export function tell(sentence) {
  gathered.push(sentence);
  timer ??= setTimeout(speak, GATHER_MS);
}

function speak() {
  const many = gathered.length > 3 ? `, and ${gathered.length - 3} more changes` : "";
  region.textContent = gathered.slice(-3).join(" ") + many;
  gathered = [];
  timer = null;
}

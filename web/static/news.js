// What a screen reader says: what has happened lately, in one breath.

const region = document.querySelector("#news");
const GATHER_MS = 1000;
const SAID = 3;

let gathered = [];

export function tell(sentence) {
  gathered.push(sentence);
  if (gathered.length === 1) setTimeout(speak, GATHER_MS);
}

function speak() {
  const more = gathered.length - SAID;
  if (more > 0) gathered = [...gathered.slice(-SAID), more === 1 ? "And 1 more change." : `And ${more} more changes.`];
  region.textContent = gathered.join(" ");
  gathered = [];
}

// Sends refused requests as Node's clients do, and tells as JSON what became of each.
import http from "node:http";

const { url, way, rounds, size, cases } = JSON.parse(process.argv[2]);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });

function ask(path, method, headers, body) {
  return new Promise((resolve) => {
    const request = http.request(url + path, { method, headers, agent }, (answer) => {
      answer.resume();
      answer.on("end", () => resolve(answer.statusCode));
    });
    request.on("error", (error) => resolve(error.code));
    request.end(body);
  });
}

async function fetched(path, method, headers, body) {
  try {
    const answer = await fetch(url + path, { method, headers, body });
    await answer.text();
    return answer.status;
  } catch (error) {
    return String(error.cause?.code ?? error);
  }
}

const told = [];
for (const { path, headers, status } of cases) {
  for (let round = 0; round < rounds; round += 1) {
    const body = Buffer.alloc(size, "x");
    const got = way === "fetch" ? await fetched(path, "POST", headers, body) : await ask(path, "POST", headers, body);
    const next = way === "fetch" ? 200 : await ask("/healthz", "GET", {});
    if (got !== status || next !== 200) told.push([path, status, got, next]);
  }
}
console.log(JSON.stringify(told));
agent.destroy();

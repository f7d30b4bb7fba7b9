// Uploads by Node's own clients: node clients.mjs '{"url", "way", "name", "content"}' prints [status, answer].
import http from "node:http";

const job = JSON.parse(process.argv[2]);
const form = new FormData();
form.append("note", "beside the file");
form.append("file", new File([job.content], job.name, { type: "text/plain;charset=utf-8" }));

async function byFetch() {
  const answer = await fetch(job.url, { method: "POST", body: form });
  return [answer.status, await answer.json()];
}

// Response writes the form as fetch does; http then sends it in chunks, without a length.
function byHttp() {
  const { body, headers } = new Response(form);
  return new Promise((resolve, reject) => {
    const options = { method: "POST", headers: { "Content-Type": headers.get("Content-Type") } };
    const request = http.request(job.url, options, async (answer) => {
      const parts = await answer.toArray();
      resolve([answer.statusCode, JSON.parse(Buffer.concat(parts).toString())]);
    });
    request.on("error", reject);
    body.pipeTo(new WritableStream({ write: (chunk) => void request.write(chunk), close: () => void request.end() }));
  });
}

console.log(JSON.stringify(await { fetch: byFetch, http: byHttp }[job.way]()));

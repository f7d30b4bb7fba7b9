// Uploads and downloads: node round_trip.mjs '{"service", "way", "names", "content"}' prints
// [[status, name, [[content in base64, Content-Disposition] by proxy, the same by link]], ...].
import axios from "axios";
import PackagedForm from "form-data";

const job = JSON.parse(process.argv[2]);
const content = Buffer.from(job.content, "base64");
const upload = `${job.service}/normal_upload`;

const byFetch = {
  async send(name) {
    const form = new FormData();
    form.append("file", new File([content], name));
    const answer = await fetch(upload, { method: "POST", body: form });
    return [answer.status, await answer.json()];
  },
  async get(url) {
    const answer = await fetch(url);
    return [Buffer.from(await answer.arrayBuffer()), answer.headers.get("content-disposition")];
  },
};

const byAxios = {
  async send(name) {
    const form = new PackagedForm();
    form.append("file", content, { filename: name });
    const answer = await axios.post(upload, form, { validateStatus: null });
    return [answer.status, answer.data];
  },
  async get(url) {
    const answer = await axios.get(url, { responseType: "arraybuffer" });
    return [Buffer.from(answer.data), answer.headers["content-disposition"]];
  },
};

async function roundTrip(client, name) {
  const [status, file] = await client.send(name);
  if (status !== 201) return [status, JSON.stringify(file), []];
  const downloads = [];
  for (const query of ["?proxy=1", ""]) {
    const [bytes, disposition] = await client.get(`${job.service}/files/${file.id}/content${query}`);
    downloads.push([bytes.toString("base64"), disposition]);
  }
  return [status, file.name, downloads];
}

const client = { fetch: byFetch, axios: byAxios }[job.way];
const trips = [];
for (const name of job.names) trips.push(await roundTrip(client, name));
console.log(JSON.stringify(trips));

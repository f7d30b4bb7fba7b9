// Uploads by tus-js-client as it comes from npm. Called with a job as JSON: the service, and a file's path.
import { createHash } from "node:crypto";
import { createReadStream, readFileSync } from "node:fs";
import * as tus from "tus-js-client";

const job = JSON.parse(process.argv[2]);
const content = readFileSync(job.path);
const named = { filename: "Bericht für 報告.bin", filetype: "application/octet-stream" };
const MIB = 1024 * 1024;

const CASES = {
  "a buffer": { metadata: named },
  "in chunks": { metadata: named, chunkSize: MIB },
  "in parallel": { metadata: named, parallelUploads: 4 },
  "in parallel, in chunks": { metadata: named, parallelUploads: 3, chunkSize: MIB / 2 },
  "with the creation": { metadata: named, uploadDataDuringCreation: true },
  "with the creation, in chunks": { metadata: named, uploadDataDuringCreation: true, chunkSize: MIB },
  "by POST alone": { metadata: named, overridePatchMethod: true },
  "without metadata": {},
  "a stream": { metadata: named, source: () => createReadStream(job.path), uploadSize: content.length, chunkSize: MIB },
  empty: { metadata: named, source: () => Buffer.alloc(0) },
  "by a worker": { metadata: named, query: "?mode=celery" },
  "by the IETF's draft 05": { metadata: named, protocol: "ietf-draft-05", endpoint: "/async_upload?name=rufh.bin" },
  "by the IETF's draft 05, with a cut": {
    metadata: named,
    protocol: "ietf-draft-05",
    endpoint: "/async_upload?name=rufh.bin",
    cut: true,
  },
  "with a cut": { metadata: named, cut: true, chunkSize: MIB },
  "with a cut, in one piece": { metadata: named, cut: true },
};

const options = ({ source, query, endpoint, cut, ...more }) => ({
  endpoint: `${job.service}${endpoint ?? `/uploads${query ?? ""}`}`,
  retryDelays: [0, 100, 500],
  ...more,
});

// The first attempt is aborted when half is sent; the second one asks where to go on.
function send(one) {
  const source = one.source?.() ?? content;
  return new Promise((resolve, reject) => {
    let isCut = false;
    const upload = new tus.Upload(source, {
      ...options(one),
      onError: (error) => reject(error),
      onSuccess: () => resolve(upload.url),
      onProgress: (sent, total) => {
        if (!one.cut || isCut || sent < total / 2) return;
        isCut = true;
        upload.abort().then(() => setTimeout(() => upload.start(), 50), reject);
      },
    });
    upload.start();
  });
}

async function bytesOf(url) {
  const id = url.split("/").pop();
  for (let tries = 0; tries < 200; tries += 1) {
    const file = await (await fetch(`${job.service}/files/${id}`)).json();
    if (file.upload_status === "COMPLETE" || file.mode === "celery") {
      if (file.mode === "celery") return { name: file.name, sha256: file.sha256, size: file.size };
      const answer = await fetch(`${job.service}/files/${id}/content?proxy=1`);
      const bytes = Buffer.from(await answer.arrayBuffer());
      return { name: file.name, size: bytes.length, sha256: createHash("sha256").update(bytes).digest("hex") };
    }
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error(`${url} is not COMPLETE`);
}

async function terminated() {
  const upload = new tus.Upload(content, { ...options({}), onProgress: () => {} });
  const url = await new Promise((resolve, reject) => {
    Object.assign(upload.options, { onError: reject, onProgress: () => upload.url && resolve(upload.url) });
    upload.start();
  });
  await upload.abort(true);
  return (await fetch(url, { method: "HEAD", headers: { "Tus-Resumable": "1.0.0" } })).status;
}

const found = {};
for (const name of job.cases ?? Object.keys(CASES)) {
  try {
    found[name] = await bytesOf(await send(CASES[name]));
  } catch (error) {
    found[name] = { error: String(error) };
  }
}
if (!job.cases) found.terminated = await terminated();
console.log(JSON.stringify(found));
process.exit(0);

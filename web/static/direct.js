// Uploads whose bytes go to S3 itself: in one piece, or in parts that go on after a lost network or a reload.

import * as api from "./api.js";
import * as memory from "./memory.js";

const IN_PARTS_BYTES = 16 * 1024 * 1024; // a smaller file is soon sent again
const TRIES = 3;
const ENDED = [404, 409, 410];
const STORED = 200;
const ALREADY_THERE = 412;

// The bucket cannot be reached from here, or does not take the bytes.
export class BucketProblem extends Error {}

// Upload a file. The answer is its File.
export async function upload(mode, file, process, idempotencyKey, { onProgress, signal }) {
  const name = memory.nameOf(mode, file, process);
  const begin = () => begun(file, process, idempotencyKey, signal);
  const { upload, sent } = (await known(name, signal)) ?? { upload: await begin(), sent: new Set() };
  const path = `/direct/${upload.id}`;
  if (upload.parts) {
    memory.remember(name, JSON.stringify({ id: upload.id, part_size: upload.part_size, parts: upload.parts }));
    await sendParts(path, file, upload, sent, { onProgress, signal });
  } else {
    await send(async () => (await begin()).put, file, { onProgress, signal });
  }
  memory.forget(name);
  return api.read(`${path}/finish`, { method: "POST", signal });
}

// End an upload in progress.
export async function end(mode, file, process) {
  const name = memory.nameOf(mode, file, process);
  const found = memory.known(name);
  memory.forget(name);
  if (found) await api.request(`/direct/${JSON.parse(found).id}`, { method: "DELETE" });
}

// The same key gives the same upload, with an address that is good for longer.
function begun(file, process, idempotencyKey, signal) {
  const wanted = { name: file.name, size: file.size, multipart: file.size >= IN_PARTS_BYTES };
  if (file.type) wanted.content_type = file.type;
  if (process) wanted.process = process;
  return api.write("POST", "/direct", wanted, { headers: { "Idempotency-Key": idempotencyKey }, signal });
}

// What an earlier visit has sent of it.
async function known(name, signal) {
  const found = memory.known(name);
  if (!found) return null;
  const upload = JSON.parse(found);
  try {
    const shown = await api.read(`/direct/${upload.id}`, { signal });
    return { upload, sent: new Set(shown.sent.map(({ number }) => number)) };
  } catch (error) {
    if (!ENDED.includes(error.status)) throw error;
    memory.forget(name);
    return null;
  }
}

async function sendParts(path, file, { part_size: size, parts }, sent, { onProgress, signal }) {
  for (let number = 1; number <= parts; number++) {
    if (sent.has(number)) continue;
    const start = (number - 1) * size;
    const part = file.slice(start, start + size);
    const progress = (done) => onProgress((start + done * part.size) / file.size);
    await send(() => api.read(`${path}/parts/${number}`, { signal }), part, { onProgress: progress, signal });
  }
}

// PUT bytes to the bucket, which gets no key; each try has an address of its own.
async function send(address, bytes, options) {
  let reason = "";
  for (let tries = 0; tries < TRIES; tries++) {
    const { url, headers } = await address();
    const status = await api.put(url, headers, bytes, options).catch((error) => {
      if (error.name === "AbortError") throw error;
    });
    if ([STORED, ALREADY_THERE].includes(status)) return;
    reason = status ? `The bucket answered ${status}.` : "The bucket cannot be reached from here.";
  }
  throw new BucketProblem(reason);
}

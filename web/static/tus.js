// Resumable uploads (tus 1.0.0): a file goes on where it was, after a lost network, a reload, or a restart of the service.

import * as api from "./api.js";
import * as memory from "./memory.js";

export const LEAST_BYTES = 16 * 1024 * 1024; // a smaller file is soon sent again
const VERSION = { "Tus-Resumable": "1.0.0" };
const BODY = "application/offset+octet-stream";

// Upload a file from where it is. The answer is its File.
export async function upload(mode, file, process, idempotencyKey, { onProgress, signal }) {
  const name = memory.nameOf(mode, file, process);
  let { path, offset } = (await known(name, signal)) ?? (await begin(name, mode, file, process, idempotencyKey, signal));
  while (offset < file.size) {
    const from = offset;
    const headers = { ...VERSION, "Content-Type": BODY, "Upload-Offset": String(from) };
    const progress = (done) => onProgress((from + done * (file.size - from)) / file.size);
    const answer = await api.transfer("PATCH", path, headers, () => file.slice(from), { onProgress: progress, signal });
    offset = Number(answer.headers.get("Upload-Offset"));
  }
  memory.forget(name);
  return api.read(`/files/${path.split("/").pop()}`);
}

// End an upload in progress.
export async function end(mode, file, process) {
  const name = memory.nameOf(mode, file, process);
  const path = memory.known(name);
  memory.forget(name);
  if (path) await api.request(path, { method: "DELETE", headers: VERSION });
}

async function known(name, signal) {
  const path = memory.known(name);
  if (!path) return null;
  try {
    const answer = await api.request(path, { method: "HEAD", headers: VERSION, signal });
    return { path, offset: Number(answer.headers.get("Upload-Offset")) };
  } catch (error) {
    if (![404, 410].includes(error.status)) throw error;
    memory.forget(name);
    return null;
  }
}

async function begin(name, mode, file, process, idempotencyKey, signal) {
  const pairs = { filename: file.name, filetype: file.type, process };
  const headers = {
    ...VERSION,
    "Idempotency-Key": idempotencyKey,
    "Upload-Length": String(file.size),
    "Upload-Metadata": Object.entries(pairs)
      .filter(([, value]) => value)
      .map(([key, value]) => `${key} ${base64(value)}`)
      .join(","),
  };
  const answer = await api.request(`/uploads?mode=${mode}`, { method: "POST", headers, signal });
  const path = new URL(answer.headers.get("Location"), location.href).pathname;
  memory.remember(name, path);
  return { path, offset: 0 };
}

const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));

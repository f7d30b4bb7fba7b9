// Every request to the service, with a key where one is asked for.

import * as key from "./key.js";

const FIRST_PAUSE_MS = 1000;
const LONGEST_PAUSE_MS = 30_000;
const SILENCE_MS = 45_000; // an answer takes less, and a stream says every 15 s that it lives

// Why the service did not do what it was asked: its problem document, or status 0 if there was no answer at all.
export class Problem extends Error {
  constructor(status, detail, fileId, retryAfterMs) {
    super(detail);
    Object.assign(this, { status, fileId, retryAfterMs });
  }

  static async of(answer) {
    const body = await answer.json().catch(() => ({}));
    const seconds = Number(answer.headers.get("Retry-After")) || 0;
    return new Problem(answer.status, body.detail ?? `The service answered ${answer.status}.`, body.file_id, seconds * 1000);
  }
}

const NO_ANSWER = "The service does not answer.";

async function withKey(send) {
  for (;;) {
    const used = key.current();
    const answer = await send(key.bearer(used));
    if (answer.ok) return answer;
    const renewed = answer.status === 401 && (await key.another(used));
    if (!renewed) throw await Problem.of(answer);
  }
}

export function request(path, { method = "GET", headers = {}, body, signal } = {}) {
  return withKey(async (bearer) => {
    const silence = new AbortController();
    const timer = setTimeout(() => silence.abort(new Problem(0, NO_ANSWER)), SILENCE_MS);
    const signals = AbortSignal.any([silence.signal, ...(signal ? [signal] : [])]);
    try {
      const sent = { Accept: "application/json", ...headers, ...bearer };
      return await fetch(path, { method, headers: sent, body, signal: signals });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, NO_ANSWER);
    } finally {
      clearTimeout(timer);
    }
  });
}

export const read = async (path, options) => (await request(path, options)).json();
export const retry = async (id) => (await request(`/files/${id}/retry`, { method: "POST" })).json();
export const remove = (id) => request(`/files/${id}`, { method: "DELETE" });
export const edit = (id, change) => write("PATCH", `/files/${id}`, change);
export const link = (id, wanted) => write("POST", `/files/${id}/links`, wanted);
export const contentPath = (id) => `/files/${id}/content`;

export async function write(method, path, body, { headers = {}, signal } = {}) {
  const sent = { "Content-Type": "application/json", ...headers };
  return (await request(path, { method, headers: sent, body: JSON.stringify(body), signal })).json();
}

// Post a file as a form.
export async function upload(mode, file, process, idempotencyKey, options) {
  const form = () => {
    const form = new FormData();
    for (const [name, value] of Object.entries({ process, file })) if (value) form.append(name, value);
    return form;
  };
  const headers = { Accept: "application/json", "Idempotency-Key": idempotencyKey };
  return (await transfer("POST", `/${mode}_upload`, headers, form, options)).json();
}

// Send a body, and tell how much of it is sent, as fetch() does not.
export const transfer = (method, path, headers, body, options) =>
  withKey(async (bearer) => answerOf(await sendByXhr(method, path, { ...headers, ...bearer }, body(), options)));

// PUT bytes elsewhere than to the service, which gets no key. Returns the status.
export const put = async (url, headers, body, options) => (await sendByXhr("PUT", url, headers, body, options)).status;

function sendByXhr(method, path, headers, body, { onProgress, signal }) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    xhr.open(method, path);
    for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
    xhr.upload.onprogress = ({ loaded, total }) => onProgress(loaded / total);
    xhr.onload = () => resolve(xhr);
    xhr.onerror = () => reject(new Problem(0, "The connection was closed before the request was complete."));
    xhr.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => xhr.abort());
    xhr.send(body);
  });
}

const READ = ["Retry-After", "Upload-Offset"];
const NO_BODY = 204;

function answerOf(xhr) {
  const headers = READ.map((name) => [name, xhr.getResponseHeader(name)]).filter(([, value]) => value !== null);
  return new Response(xhr.status === NO_BODY ? null : xhr.responseText, { status: xhr.status, headers });
}

// Hear of changes as they happen, for ever. EventSource could not send a key, so the stream is read by fetch().
export async function watch(onEvent, onOpen, onLost) {
  let last = "";
  let pause = FIRST_PAUSE_MS;
  for (;;) {
    const silence = new AbortController();
    let timer = null;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
    };
    try {
      const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
      const answer = await request("/events", { headers, signal: silence.signal });
      heard();
      onOpen();
      pause = FIRST_PAUSE_MS;
      for await (const event of eventsOf(answer.body)) {
        heard();
        last = event.id ?? last;
        if (event.data) onEvent(JSON.parse(event.data));
      }
    } catch (error) {
      // Other errors are the network's: a stream that breaks off is no Problem.
      if (error instanceof Problem) pause = Math.max(pause, error.retryAfterMs ?? 0);
    }
    clearTimeout(timer);
    onLost();
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
  }
}

async function* eventsOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) yield Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
  }
}

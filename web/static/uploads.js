// The files of this visit: in line, on their way to the service, and from there to S3.

import * as actions from "./actions.js";
import * as api from "./api.js";
import * as direct from "./direct.js";
import { tell } from "./news.js";
import * as times from "./times.js";
import * as tus from "./tus.js";
import { bytes, duration, isFinal, stateOf } from "./words.js";

const AT_ONCE = 3; // a browser opens six connections to a service; one listens, and some must be left to ask
const TRIES = 10;
const LABELS = { pause: "Pause", proceed: "Go on with", retry: "Try again", download: "Download", copy: "Copy the link of", cancel: "Cancel" };
const LONGEST_PAUSE_MS = 60_000;

const list = document.querySelector("#uploads");
const title = document.querySelector("#send-title");
const template = document.querySelector("#upload");
const total = document.querySelector("#total");
const uploads = new Set();

class Upload {
  constructor(file, { mode, process }, onRecord) {
    Object.assign(this, { file, mode, process, onRecord, record: null, answerMs: null, totalMs: null });
    this.card = template.content.firstElementChild.cloneNode(true);
    this.find(".name").textContent = file.name;
    this.showMode();
    for (const [action, label] of Object.entries(LABELS)) {
      const button = this.find(`[data-action=${action}]`);
      button.ariaLabel = `${label} ${file.name}`;
      if (action !== "download") button.addEventListener("click", () => this[action]());
    }
    this.renew();
  }

  showMode() {
    this.find(".facts").textContent = `${bytes(this.file.size)} · ${this.mode}`;
  }

  get isResumable() {
    return this.mode !== "normal" && this.file.size >= tus.LEAST_BYTES;
  }

  // What sends the bytes, and ends an upload in progress.
  get way() {
    return this.mode === "direct" ? direct : this.isResumable ? tus : api;
  }

  // Be as if it had never been sent: a new request, which makes a new File.
  renew() {
    this.idempotencyKey = [...crypto.getRandomValues(new Uint8Array(16))].map((n) => n.toString(16).padStart(2, "0")).join("");
    this.record = null;
    this.wait();
  }

  wait() {
    this.tries = 0;
    this.done = 0;
    this.show("line", "Queued", "", 0);
  }

  get isWaiting() {
    return this.state === "line";
  }

  get isSending() {
    return ["sending", "pause"].includes(this.state);
  }

  get isPaused() {
    return this.state === "paused";
  }

  // Bytes that the service has, or is being sent.
  get sent() {
    return this.record === null ? this.done * this.file.size : this.file.size;
  }

  get isOver() {
    return this.state === "failed" || (this.record !== null && isFinal(this.record));
  }

  async send() {
    this.aborter = new AbortController();
    const started = performance.now();
    this.sending(0);
    try {
      const options = { onProgress: (done) => this.sending(done), signal: this.aborter.signal };
      const record = await this.way.upload(this.mode, this.file, this.process, this.idempotencyKey, options);
      this.answerMs = performance.now() - started;
      this.accept(record);
    } catch (error) {
      await this.refused(error);
    }
  }

  sending(done) {
    this.done = done;
    if (done < 1) this.show("sending", "Sending", `${bytes(done * this.file.size)} of ${bytes(this.file.size)}`, done);
    else if (this.mode === "normal") this.show("sending", "Delivering", "All sent. The answer comes when it is in S3.", null);
    else if (this.mode === "direct") this.show("sending", "Checking", "All sent. The answer comes when it is verified.", null);
    else this.show("sending", "Sending", "All sent, waiting for the answer.", null);
  }

  async refused(error) {
    if (error.name === "AbortError") return;
    if (error.fileId) return this.follow(error.fileId);
    if (error instanceof direct.BucketProblem) return this.goThrough(error.message);
    const isCut = this.isResumable && [0, 423].includes(error.status); // it goes on where it was
    const busy = isCut || [429, 503].includes(error.status) || (error.status === 409 && !error.fileId);
    this.tries += 1;
    if (!busy || this.tries >= TRIES) return this.fail(error.message);
    await this.holdOff(error.message, Math.min(error.retryAfterMs || 1000 * this.tries, LONGEST_PAUSE_MS));
    if (!this.aborter.signal.aborted) return this.send();
  }

  // The bucket is out of reach, so the file goes through the service.
  goThrough(reason) {
    direct.end(this.mode, this.file, this.process).catch(() => {}); // it ends by itself
    this.mode = "async";
    this.showMode();
    tell(`${reason} ${this.file.name} goes through the service.`);
    this.renew();
    return this.send();
  }

  async holdOff(reason, ms) {
    const until = performance.now() + ms;
    for (let left = ms; left > 0 && !this.aborter.signal.aborted; left = until - performance.now()) {
      this.show("pause", "Waiting", `${reason} ${this.isResumable ? "Going on" : "Sending it again"} in ${Math.ceil(left / 1000)}\u00a0s.`, null);
      await new Promise((resolve) => setTimeout(resolve, Math.min(left, 1000)));
    }
  }

  pause() {
    this.show("paused", "Paused", `${bytes(this.sent)} of ${bytes(this.file.size)}`, this.done);
    this.aborter.abort();
    this.find("[data-action=proceed]").focus();
  }

  proceed() {
    this.card.focus();
    const { done } = this;
    this.wait();
    this.done = done;
    fill();
  }

  // The service has the file, although it could not deliver it in the request.
  async follow(fileId) {
    try {
      this.accept(await api.read(`/files/${fileId}`));
    } catch (error) {
      this.fail(error.message);
    }
  }

  fail(reason) {
    this.show("failed", "Not sent", reason, null);
    tell(`${this.file.name} was not sent: ${reason}`);
  }

  accept(record) {
    this.record = record;
    this.onRecord(record);
  }

  update(record) {
    const was = this.record.upload_status;
    this.record = record;
    const state = stateOf(record);
    const over = isFinal(record);
    if (record.upload_status === "COMPLETE") {
      this.noteTimes();
      state.detail = this.howLong();
      actions.makeDownload(this.find("[data-action=download]"), record, (error) => this.complain(error));
    }
    this.show(record.upload_status.toLowerCase(), state.label, state.detail, over ? Number(!record.error) : state.done);
    if (over && (was !== record.upload_status || !this.told)) {
      this.told = true;
      tell(record.error ? `${this.file.name} failed: ${record.error}` : `${this.file.name} is in S3.`);
    }
  }

  howLong() {
    if (this.totalMs === null) return "";
    if (["normal", "direct"].includes(this.mode)) return `In S3, and answered, in ${duration(this.answerMs)}.`;
    return `Answered in ${duration(this.answerMs)}, in S3 in ${duration(this.totalMs)}.`;
  }

  // By the service's own clock, so that it does not matter how late the page hears of it.
  noteTimes() {
    const { completed_at: completed, created_at: created } = this.record;
    if (this.answerMs === null || this.totalMs !== null || !completed) return;
    const after = ["normal", "direct"].includes(this.mode) ? 0 : new Date(completed) - new Date(created);
    this.totalMs = this.answerMs + Math.max(after, 0);
    times.note(this.mode, this.answerMs, this.totalMs);
  }

  async retry() {
    this.card.focus();
    this.told = false;
    if (this.record === null) {
      this.wait(); // the same request once more: if it did arrive, it is not done twice
      return fill();
    }
    try {
      this.answerMs = null; // the wait before it was tried again says nothing about the mode
      this.accept(await api.retry(this.record.id));
    } catch (error) {
      if (error.status !== 409 && error.status !== 404) return this.complain(error);
      this.renew(); // the service no longer has the bytes, but we do
      fill();
    }
  }

  copy() {
    actions.copyLink(this.record.url, this.find("[data-action=copy]"));
  }

  cancel() {
    this.aborter?.abort();
    if (this.isResumable) this.way.end(this.mode, this.file, this.process).catch(() => {}); // it ends by itself in a day
    (this.card.nextElementSibling ?? this.card.previousElementSibling ?? title).focus();
    this.forget();
    fill();
  }

  forget() {
    uploads.delete(this);
    this.card.remove();
    tidy();
  }

  complain(error) {
    this.find(".detail").textContent = error.message;
    tell(error.message);
  }

  show(state, label, detail, done) {
    this.state = state;
    const hide = { retry: !["failed", "error"].includes(state), cancel: !["line", "sending", "pause", "paused", "failed"].includes(state) };
    hide.pause = !(this.isResumable && ["sending", "pause"].includes(state));
    hide.proceed = state !== "paused";
    hide.download = hide.copy = state !== "complete";
    for (const [action, hidden] of Object.entries(hide)) this.find(`[data-action=${action}]`).hidden = hidden;
    this.card.dataset.state = state;
    this.find(".status").textContent = label;
    this.find(".status").dataset.status = state;
    this.find(".detail").textContent = detail;
    const progress = this.find("progress");
    progress.hidden = ["line", "failed", "error", "complete"].includes(state);
    progress.ariaLabel = `${label}: ${this.file.name}`;
    if (done === null) progress.removeAttribute("value");
    else progress.value = done;
    tidy();
  }

  find(selector) {
    return this.card.querySelector(selector);
  }
}

// Put files in line; the latest are shown first.
export function add(files, wish, onRecord) {
  const added = files.map((file) => new Upload(file, wish, onRecord));
  for (const upload of added) uploads.add(upload);
  list.prepend(...added.map((upload) => upload.card));
  tell(files.length === 1 ? `${files[0].name} is in line.` : `${files.length} files are in line.`);
  fill();
}

// A File has changed; true if it is one of these.
export function update(record) {
  const upload = [...uploads].find((each) => each.record?.id === record.id);
  upload?.update(record);
  return upload !== undefined;
}

// The bytes of some file are only in this page yet.
export const isBusy = () => [...uploads].some((upload) => upload.isWaiting || upload.isSending || upload.isPaused);

function fill() {
  const waiting = [...uploads].filter((upload) => upload.isWaiting);
  const sending = [...uploads].filter((upload) => upload.isSending).length;
  for (const upload of waiting.slice(0, Math.max(AT_ONCE - sending, 0))) upload.send().finally(fill);
  tidy();
}

function tidy() {
  const there = [...uploads].filter((upload) => upload.state === "complete").length;
  document.querySelector("#visit-title").textContent = `This visit: ${there} of ${uploads.size} in S3`;
  showTotal();
  document.querySelector("#visit").hidden = uploads.size === 0;
  document.querySelector("#clear").hidden = ![...uploads].some((upload) => upload.isOver);
}

// How far all files together are on their way to the service.
function showTotal() {
  const all = [...uploads];
  const size = all.reduce((sum, { file }) => sum + file.size, 0);
  total.hidden = all.length < 2 || !isBusy();
  total.value = size ? all.reduce((sum, { sent }) => sum + sent, 0) / size : 0;
}

document.querySelector("#clear").addEventListener("click", () => {
  for (const upload of [...uploads]) if (upload.isOver) upload.forget();
  title.focus();
});

// The page: takes files in, and keeps what it shows up to date.

import * as api from "./api.js";
import { isMaking } from "./derived.js";
import { filesOf } from "./folders.js";
import { askAgain } from "./key.js";
import * as presets from "./presets.js";
import * as recent from "./recent.js";
import * as memory from "./memory.js";
import * as uploads from "./uploads.js";
import { isFinal } from "./words.js";

const ASK_MS = 1000; // without live events
const ASK_ANYWAY_MS = 5000; // with them: one may be lost between an upload's answer and the first event
const ASK_FOR = 20;

const records = new Map();
const form = document.querySelector("#send");
const choose = document.querySelector("#choose");
const dropNote = document.querySelector("#drop-note");
const live = document.querySelector("#live");
const lost = document.querySelector("#lost");

// Take in what is known of a File, by an answer or an event. COMPLETE is final, so whatever says otherwise is late.
function learn(news) {
  const known = records.get(news.id);
  const isLate = known?.upload_status === "COMPLETE" && news.upload_status !== "COMPLETE";
  const record = isLate ? known : { ...known, ...news };
  records.delete(record.id); // to the end, so that each is asked for in its turn
  records.set(record.id, record);
  uploads.update(record);
  recent.update(record);
}

// An event does not have the whole File; what becomes of our own is worth a question.
function hear(news) {
  const known = records.get(news.id);
  if (news.name === null) return forget(news.id); // it was deleted meanwhile
  if (!known) return recent.update(news);
  learn(news);
  if (isFinal(news) && !isFinal(known)) ask(news.id);
}

// The answer is for how long the service wants to be left alone, if it said so.
async function ask(id) {
  try {
    learn(await api.read(`/files/${id}`));
  } catch (error) {
    if (error.status === 404) forget(id); // otherwise it is asked again soon
    return error.retryAfterMs;
  }
}

function forget(id) {
  records.delete(id);
  recent.forget(id);
}

async function askOnAndOn() {
  const open = [...records.values()].filter((record) => !isFinal(record) || isMaking(record)).slice(0, ASK_FOR);
  let told = 0;
  for (const record of open) {
    told = await ask(record.id);
    if (told) break;
  }
  setTimeout(askOnAndOn, told || (live.hidden ? ASK_MS : ASK_ANYWAY_MS));
}

async function take(files) {
  dropNote.textContent = "";
  askAgain();
  const process = files.length ? await presets.wish(files) : null;
  if (process !== null) uploads.add(files, { mode: new FormData(form).get("mode"), process }, learn);
}

choose.multiple = true;
choose.addEventListener("change", () => {
  take([...choose.files]);
  choose.value = "";
});

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
let inside = 0; // the pointer enters and leaves every element on its way

addEventListener("dragenter", (event) => hasFiles(event) && document.body.classList.toggle("dragging", ++inside > 0));
addEventListener("dragleave", (event) => hasFiles(event) && document.body.classList.toggle("dragging", --inside > 0));
addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
addEventListener("drop", async (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  inside = 0;
  document.body.classList.remove("dragging");
  try {
    const files = await filesOf(event.dataTransfer);
    await take(files);
    if (files.length === 0) dropNote.textContent = "There is no file in this folder.";
  } catch {
    dropNote.textContent = "This folder cannot be read.";
  }
});

addEventListener("beforeunload", (event) => {
  if (uploads.isBusy()) event.preventDefault();
});

function listen(isLive) {
  live.hidden = !isLive;
  lost.hidden = isLive;
  if (isLive) recent.load(); // what happened before the stream began
}

const [first, ...others] = memory.unfinished();
if (first) {
  const more = others.length ? ` and ${others.length} more` : "";
  dropNote.textContent = `${first}${more} can go on where an earlier visit stopped: choose the file again.`;
}

addEventListener("key", () => recent.load());
recent.start(learn);
api.watch(hear, () => listen(true), () => listen(false));
askOnAndOn();

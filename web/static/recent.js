// The table of recent files: filtered, continued, and kept up to date.

import * as actions from "./actions.js";
import * as api from "./api.js";
import * as derived from "./derived.js";
import * as details from "./details.js";
import { tell } from "./news.js";
import { bytes, inWords, moment, stateOf } from "./words.js";

const TYPING_MS = 250;
const GATHER_MS = 400;
const AGAIN_MS = 5000;
const MANY = 1000;

const table = document.querySelector("#files");
const body = table.tBodies[0];
const filter = document.querySelector("#filter");
const note = document.querySelector("#recent-note");
const more = document.querySelector("#more");
const template = document.querySelector("#row");
const rows = new Map();
const passed = new Map(); // Files that are not in the table, and the status they had

let learn = null;
let next = null;
let asked = null;
let timer = null;

// From now on, `onRecord` learns of every File that is read.
export function start(onRecord) {
  learn = onRecord;
  load();
}

// A File has changed. One that is not in the table may belong there: then the newest are read again, soon.
export function update(record) {
  const row = rows.get(record.id);
  if (row) return fillRow(row, record);
  if (passed.get(record.id) === record.upload_status) return;
  if (passed.size > MANY) passed.clear();
  passed.set(record.id, record.upload_status);
  if (!timer) later(GATHER_MS);
}

// The service no longer has a File.
export function forget(id) {
  rows.get(id)?.remove();
  rows.delete(id);
}

function later(ms) {
  clearTimeout(timer);
  timer = setTimeout(load, ms);
}

function firstPage() {
  const chosen = [...new FormData(filter)].filter(([, value]) => value);
  return `/files?${new URLSearchParams([["limit", "20"], ...chosen])}`;
}

// Read the newest files again.
export async function load() {
  clearTimeout(timer);
  timer = null;
  const path = firstPage();
  asked?.abort();
  asked = new AbortController();
  try {
    const page = await api.read(path, { signal: asked.signal });
    if (table.dataset.path !== path) clear();
    if (rows.size === 0) next = page.next;
    table.dataset.path = path;
    insert(page.files, body.firstElementChild);
    say(rows.size ? "" : isFiltered() ? "No file matches." : "Nothing here yet. A file that you send shows up here.");
  } catch (error) {
    if (error.name === "AbortError") return;
    say(error.message);
    if ([0, 429, 503].includes(error.status)) later(error.retryAfterMs || AGAIN_MS);
  }
}

async function loadMore() {
  const seen = rows.size;
  try {
    const page = await api.read(next);
    next = page.next;
    insert(page.files, null);
    say("");
    tell(`${rows.size - seen} more files.`);
    body.rows[seen]?.querySelector("a, button:not([hidden])")?.focus();
  } catch (error) {
    say(error.message);
  }
}

function isFiltered() {
  return [...new FormData(filter).values()].some(Boolean);
}

function clear() {
  rows.clear();
  body.replaceChildren();
}

function insert(records, before) {
  for (const record of records) {
    if (!rows.has(record.id)) {
      const row = newRow(record);
      rows.set(record.id, row);
      body.insertBefore(row, before);
    }
    learn(record);
  }
}

function say(text) {
  note.textContent = text;
  note.hidden = text === "";
  table.hidden = rows.size === 0;
  more.hidden = !next;
}

function newRow(record) {
  const row = template.content.firstElementChild.cloneNode(true);
  row.querySelector(".mode").textContent = record.mode;
  const on = (action, label, does) => {
    const button = row.querySelector(`[data-action=${action}]`);
    button.ariaLabel = `${label} ${record.name}`;
    button.title = label;
    if (does) button.addEventListener("click", () => does(row.record, row, button).catch((error) => complain(row, error)));
  };
  on("download", "Download");
  on("details", "Details of", async (shown) => details.open(shown, learn));
  on("copy", "Copy the link of", async ({ url }, _, button) => actions.copyLink(url, button));
  on("retry", "Try again", async ({ id }) => {
    learn(await api.retry(id));
    row.querySelector("[data-action=delete]").focus();
  });
  on("delete", "Delete", remove);
  return row;
}

function fillRow(row, record) {
  row.record = record;
  const { status, label, detail } = stateOf(record);
  const hide = { download: status !== "COMPLETE", copy: !record.url, retry: status !== "ERROR" };
  for (const [action, hidden] of Object.entries(hide)) row.querySelector(`[data-action=${action}]`).hidden = hidden;
  row.querySelector(".name").textContent = record.name;
  row.querySelector(".metadata").textContent = inWords(record.metadata);
  derived.show(row.querySelector(".derived"), record);
  row.querySelector(".status").textContent = label;
  row.querySelector(".status").dataset.status = status.toLowerCase();
  row.querySelector(".state .detail").textContent = detail;
  row.querySelector(".size").textContent = bytes(record.size);
  row.querySelector("time").dateTime = record.created_at;
  row.querySelector("time").textContent = moment(record.created_at);
  row.querySelector(".facts").textContent = `${bytes(record.size)} · ${record.mode} · ${moment(record.created_at)}`;
  actions.makeDownload(row.querySelector("[data-action=download]"), record, (error) => complain(row, error));
}

async function remove(record, row) {
  if (!(await actions.confirmDelete(record.name))) return;
  await api.remove(record.id).catch((error) => {
    if (error.status !== 404) throw error; // gone already is as good
  });
  const neighbour = row.nextElementSibling ?? row.previousElementSibling;
  forget(record.id);
  (neighbour?.querySelector("[data-action=delete]") ?? document.querySelector("#recent-title")).focus();
  tell(`${record.name} is deleted.`);
  if (rows.size === 0) load();
}

function complain(row, error) {
  row.querySelector(".state .detail").textContent = error.message;
  tell(error.message);
}

filter.addEventListener("input", () => later(TYPING_MS));
filter.addEventListener("submit", (event) => {
  event.preventDefault();
  later(0);
});
more.addEventListener("click", loadMore);

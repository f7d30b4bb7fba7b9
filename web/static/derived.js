// What is made of a file: thumbnails of an image, a table's counts and its report.

import * as actions from "./actions.js";
import * as api from "./api.js";

const LABELS = { PENDING: "waiting", PROCESSING: "being made", COMPLETE: "", ERROR: "failed" };
const ROWS = new Intl.NumberFormat();
const OTHERS = ["report", "rejected"];

const dialog = document.querySelector("#report");
const columns = dialog.querySelector("tbody");
const facts = dialog.querySelector("dl");
const rejected = dialog.querySelector("[data-action=rejected]");
const loaded = new Map(); // addresses of thumbnails, by id
let reported = {}; // the record and the preset whose report is open

// True while anything is still to be made of a file.
export const isMaking = (record) => ["PENDING", "PROCESSING"].includes(record.derivatives_status);

// Show what is made of a file.
export function show(list, record) {
  const made = (record.derivatives ?? []).filter(({ output }) => !OTHERS.includes(output));
  list.hidden = made.length === 0;
  list.replaceChildren(...made.map((one) => item(one, record)));
  if (record.id === reported.record?.id) offerRejected(record);
}

function item(one, record) {
  const entry = document.createElement("li");
  const about = document.createElement("span");
  about.textContent = [one.preset, LABELS[one.upload_status], one.error].filter(Boolean).join(": ");
  entry.dataset.status = one.upload_status.toLowerCase();
  if (one.upload_status === "COMPLETE" && one.output === "variant") entry.append(thumbnail(one));
  else entry.append(about);
  if (one.output === "part" && one.summary) about.textContent = `${one.preset}: ${counts(one.summary)}`;
  if (one.output === "part" && hasReport(one, record)) entry.append(reportButton(one, record));
  return entry;
}

const hasReport = (one, record) =>
  record.derivatives.some((other) => other.preset === one.preset && other.output === "report" && other.upload_status === "COMPLETE");

function counts({ records, column_count: wide }) {
  const lost = records.rejected ? `, ${ROWS.format(records.rejected)} rejected` : "";
  return `${ROWS.format(records.out)} rows, ${wide} columns${lost}`;
}

function thumbnail(one) {
  const link = document.createElement("a");
  const image = document.createElement("img");
  image.alt = `${one.preset}, ${one.summary.width} × ${one.summary.height}`;
  image.height = 48;
  link.title = image.alt;
  link.append(image);
  actions.makeDownload(link, one, () => {});
  fill(image, one).catch(() => image.replaceWith(image.alt));
  return link;
}

// An image tag cannot carry a key, so the bytes are fetched.
async function fill(image, { id }) {
  if (!loaded.has(id)) {
    const answer = await api.request(`${api.contentPath(id)}?proxy=1`);
    loaded.set(id, URL.createObjectURL(await answer.blob()));
  }
  image.src = loaded.get(id);
}

function reportButton(one, record) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "small quiet";
  button.textContent = "Report";
  button.ariaLabel = `Report of ${one.preset} of ${record.name}`;
  button.addEventListener("click", () => open(one, record).catch((error) => button.replaceWith(error.message)));
  return button;
}

async function open(one, record) {
  reported = { record, preset: one.preset };
  const whole = await api.read(`/files/${one.id}/report`);
  const found = whole.parts?.find((part) => part.sheet === one.summary?.sheet) ?? whole.parts?.[0] ?? whole;
  dialog.querySelector(".name").textContent = record.name;
  columns.replaceChildren(...found.columns.map(columnRow));
  facts.replaceChildren(...Object.entries(about(found, whole)).flatMap(pair));
  offerRejected(reported.record);
  dialog.showModal();
}

// The rejected rows may land in S3 after the report: the open dialog offers them as soon as they are there.
function offerRejected(record) {
  reported.record = record;
  const lost = record.derivatives.find(({ preset, output }) => preset === reported.preset && output === "rejected");
  rejected.hidden = lost?.upload_status !== "COMPLETE";
  if (!rejected.hidden) actions.makeDownload(rejected, lost, () => {});
}

function about(found, whole) {
  const { in: all, out, rejected: lost, blank, preamble } = found.records;
  const said = { Records: `${all} in, ${out} out, ${lost} rejected, ${blank} blank, ${preamble} before the table` };
  if (found.encoding) said.Encoding = `${found.encoding.name} (${found.encoding.how})`;
  if (found.delimiter) said.Delimiter = `${found.delimiter.value === "\t" ? "tab" : found.delimiter.value} (${found.delimiter.how})`;
  if (whole.sheets) said.Sheets = whole.sheets.map(({ name, used }) => `${name}${used ? "" : " (left out)"}`).join(", ");
  said.Proof = found.proof ? `${ROWS.format(found.proof.cells)} cells read back, all equal` : "nothing was written";
  return said;
}

function pair([name, value]) {
  const term = document.createElement("dt");
  const said = document.createElement("dd");
  [term.textContent, said.textContent] = [name, value];
  return [term, said];
}

function columnRow({ name, type, why, nulls }) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  row.append(head);
  for (const text of [type, why, ROWS.format(nulls)]) row.insertCell().textContent = text;
  return row;
}

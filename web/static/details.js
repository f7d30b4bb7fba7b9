// A file's details: its shown name, its metadata, and links to it.

import * as actions from "./actions.js";
import * as api from "./api.js";
import { tell } from "./news.js";

const dialog = document.querySelector("#details");
const edit = dialog.querySelector("#edit");
const share = dialog.querySelector("#share");
const words = edit.querySelector(".words");
const template = document.querySelector("#word");
const [editError, shareError] = dialog.querySelectorAll(".error");

let record = null;
let onSaved = null;

// Show the details of a File, and tell of it once it is changed.
export function open(shown, learn) {
  record = shown;
  onSaved = learn;
  dialog.querySelector("h2 .name").textContent = record.name;
  edit.elements.name.value = record.name;
  words.replaceChildren();
  for (const [name, value] of Object.entries(record.metadata ?? {})) add(name, value);
  share.hidden = record.upload_status !== "COMPLETE";
  editError.textContent = shareError.textContent = "";
  dialog.showModal();
}

function add(name = "", value = "") {
  const word = template.content.firstElementChild.cloneNode(true);
  const [nameInput, valueInput] = word.querySelectorAll("input");
  [nameInput.value, valueInput.value] = [name, value];
  word.querySelector("button").addEventListener("click", () => {
    word.remove();
    edit.querySelector("#add-word").focus();
  });
  words.append(word);
  return nameInput;
}

function typed() {
  const inputs = [...words.children].map((word) => [...word.querySelectorAll("input")].map((input) => input.value));
  return Object.fromEntries(inputs.filter(([name, value]) => name || value));
}

// What differs from what was shown; null removes a name (RFC 7396).
function change() {
  const known = record.metadata ?? {};
  const wanted = typed();
  const names = new Set([...Object.keys(known), ...Object.keys(wanted)]);
  const differing = [...names].filter((name) => known[name] !== wanted[name]);
  const metadata = Object.fromEntries(differing.map((name) => [name, wanted[name] ?? null]));
  const name = edit.elements.name.value;
  return { ...(differing.length && { metadata }), ...(name !== record.name && { name }) };
}

edit.querySelector("#add-word").addEventListener("click", () => add().focus());

edit.addEventListener("submit", async (event) => {
  event.preventDefault();
  const changed = change();
  try {
    if (Object.keys(changed).length) onSaved(await api.edit(record.id, changed));
    dialog.close();
    tell(`${edit.elements.name.value} is saved.`);
  } catch (error) {
    editError.textContent = error.message;
  }
});

share.addEventListener("submit", async (event) => {
  event.preventDefault();
  shareError.textContent = "";
  const { seconds, inline } = share.elements;
  const disposition = inline.checked ? "inline" : "attachment";
  try {
    const { url } = await api.link(record.id, { expires_in: Number(seconds.value), disposition });
    actions.copyLink(url, share.querySelector("[type=submit]"));
  } catch (error) {
    shareError.textContent = error.message;
  }
});

dialog.querySelector("[value=cancel]").addEventListener("click", () => dialog.close());

// What can be done with a file that the service has: download it, copy its link, delete it.

import * as api from "./api.js";
import { hasKey } from "./key.js";
import { tell } from "./news.js";

const askDelete = document.querySelector("#ask-delete");
const showLink = document.querySelector("#show-link");
const COPIED_MS = 2000;

// Let a link download a file.
export function makeDownload(link, record, onProblem) {
  link.href = api.contentPath(record.id);
  link.download = record.name;
  link.onclick = (event) => {
    if (!hasKey()) return;
    event.preventDefault();
    downloadWithKey(record, link).catch(onProblem);
  };
}

// A link cannot carry a key: then the service passes the bytes on, and the browser saves them when it has them all.
async function downloadWithKey(record, link) {
  link.setAttribute("aria-busy", "true");
  try {
    const answer = await api.request(`${api.contentPath(record.id)}?proxy=1`);
    const address = URL.createObjectURL(await answer.blob());
    const save = document.createElement("a");
    save.href = address;
    save.download = record.name;
    save.click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  } finally {
    link.removeAttribute("aria-busy");
  }
}

// Copy a file's address, or show it where a page may not copy.
export async function copyLink(url, button) {
  try {
    await navigator.clipboard.writeText(url);
  } catch {
    return showToCopy(url); // no clipboard without https, or not allowed
  }
  tell("The link is copied.");
  button.classList.add("copied");
  setTimeout(() => button.classList.remove("copied"), COPIED_MS);
}

function showToCopy(url) {
  const input = showLink.querySelector("input");
  input.value = url;
  showLink.showModal();
  input.select();
}

// Ask before a file is deleted; true if it is to be.
export function confirmDelete(name) {
  askDelete.querySelector(".name").textContent = name;
  askDelete.returnValue = "";
  askDelete.showModal();
  return new Promise((resolve) => {
    askDelete.onclose = () => resolve(askDelete.returnValue === "delete");
  });
}

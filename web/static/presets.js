// Which presets are asked for; of a table the first rows are shown before it is sent, as the hints cut them.

const PREVIEW_BYTES = 16 * 1024;
const PREVIEW_ROWS = 6;
const PREVIEW_COLUMNS = 12;
const DELIMITERS = { ",": ",", ";": ";", "\t": "\t", "|": "|" };

const choice = document.querySelector("#process");
const dialog = document.querySelector("#preview");
const form = dialog?.querySelector("form");
const table = dialog?.querySelector("table");
const note = dialog?.querySelector(".note");

// What to ask for with these files; null if they are not to be sent after all.
export async function wish(files) {
  const chosen = choice?.selectedOptions[0];
  if (!chosen?.value || chosen.dataset.kind !== "table") return choice?.value ?? "";
  const text = files.find(({ name }) => !/\.(xlsx|xls|ods)$/i.test(name));
  return text ? preview(chosen.value, text) : chosen.value;
}

async function preview(preset, file) {
  const bytes = await file.slice(0, PREVIEW_BYTES).arrayBuffer();
  const redraw = () => draw(bytes);
  dialog.querySelector(".name").textContent = file.name;
  form.reset();
  form.oninput = redraw;
  redraw();
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => resolve(dialog.returnValue === "send" ? hinted(preset) : null);
  });
}

function hinted(preset) {
  const hints = [...new FormData(form)].filter(([, value]) => value);
  return hints.length ? `${preset}?${new URLSearchParams(hints)}` : preset;
}

function draw(bytes) {
  const { encoding, delimiter, header } = form.elements;
  let text = "";
  note.textContent = "";
  try {
    text = new TextDecoder(encoding.value || "utf-8").decode(bytes);
    if (text.includes("\ufffd")) note.textContent = "These bytes are not in this encoding.";
  } catch {
    note.textContent = "This browser does not know the encoding.";
  }
  const lines = text.split(/\r\n|\r|\n/).slice(Math.max(Number(header.value) - 1, 0));
  const cut = DELIMITERS[delimiter.value] ?? sniff(lines);
  const rows = lines.filter(Boolean).slice(0, PREVIEW_ROWS).map((line) => cells(line, cut).slice(0, PREVIEW_COLUMNS));
  table.tHead.replaceChildren();
  table.tBodies[0].replaceChildren();
  for (const [number, row] of rows.entries()) fill(number ? table.tBodies[0].insertRow() : table.tHead.insertRow(), row, number === 0);
}

function fill(row, texts, isHead) {
  for (const text of texts) {
    const cell = document.createElement(isHead ? "th" : "td");
    if (isHead) cell.scope = "col";
    cell.textContent = text;
    row.append(cell);
  }
}

const sniff = (lines) => Object.keys(DELIMITERS).reduce((best, one) => (count(lines, one) > count(lines, best) ? one : best), ",");
const count = (lines, delimiter) => lines.slice(0, PREVIEW_ROWS).reduce((sum, line) => sum + cells(line, delimiter).length - 1, 0);

// The cells of a line; what stands in quotes stays together.
function cells(line, delimiter) {
  const found = [""];
  let inQuotes = false;
  for (const char of line) {
    if (char === '"') inQuotes = !inQuotes;
    else if (char === delimiter && !inQuotes) found.push("");
    else found[found.length - 1] += char;
  }
  return found;
}

dialog?.querySelector("[value=cancel]").addEventListener("click", () => dialog.close());

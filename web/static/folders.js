// The files of a drop, and those in its folders.

// Every file, however deep. What was dropped can only be taken hold of before the first wait.
export async function filesOf(dataTransfer) {
  const items = [...dataTransfer.items].filter((item) => item.kind === "file");
  const found = await Promise.all(items.map((item) => filesOfItem(item)));
  return found.flat();
}

function filesOfItem(item) {
  const entry = item.webkitGetAsEntry?.();
  return entry?.isDirectory ? filesIn(entry) : [item.getAsFile()];
}

async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  const files = [];
  for (const inner of await entriesOf(entry.createReader())) files.push(...(await filesIn(inner)));
  return files;
}

// Chromium reads a hundred entries at a time, and none at the end.
async function entriesOf(reader) {
  const entries = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) return entries;
    entries.push(...some);
  }
}

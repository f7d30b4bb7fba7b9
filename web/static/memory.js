// Uploads in progress that a later visit goes on with, by the name of a chosen file.

const STORE = "ferryman.uploads";
const KEPT_MS = 24 * 3600 * 1000; // as long as the service keeps an upload

// A browser does not tell a file's path, so this is how a chosen file is known again.
export const nameOf = (mode, file, process) => [mode, process, file.name, file.size, file.lastModified].join("\n");

// The names of files of which an earlier visit has sent a part.
export const unfinished = () => Object.keys(remembered()).map((name) => name.split("\n")[2]);

export const known = (name) => remembered()[name]?.path;
export const remember = (name, path) => keep({ ...remembered(), [name]: { path, at: Date.now() } });

export function forget(name) {
  const { [name]: _, ...others } = remembered();
  keep(others);
}

function remembered() {
  try {
    const all = Object.entries(JSON.parse(localStorage.getItem(STORE)) ?? {});
    return Object.fromEntries(all.filter(([, { at }]) => Date.now() - at < KEPT_MS));
  } catch {
    return {}; // a browser may forbid it
  }
}

function keep(all) {
  try {
    localStorage.setItem(STORE, JSON.stringify(all));
  } catch {
    // Then it goes on as long as the page is there.
  }
}

// How sizes, times and states are said.

const UNITS = ["bytes", "kB", "MB", "GB", "TB"];
const LABELS = { PENDING: "Pending", PROCESSING: "Processing", COMPLETE: "Complete", ERROR: "Error" };
const JOINED = "\u00a0"; // no line ends between a number and its unit
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export function bytes(count) {
  if (count === 1) return `1${JOINED}byte`;
  let unit = 0;
  while (count >= 999.5 && unit < UNITS.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit && count < 9.95 ? count.toFixed(1) : Math.round(count)}${JOINED}${UNITS[unit]}`;
}

export function duration(ms) {
  if (ms < 999.5) return `${Math.round(ms)}${JOINED}ms`;
  return ms < 99_950 ? `${(ms / 1000).toFixed(1)}${JOINED}s` : `${Math.round(ms / 60_000)}${JOINED}min`;
}

export const moment = (text) => MOMENT.format(new Date(text));

// Metadata in a line.
export const inWords = (metadata) =>
  Object.entries(metadata ?? {})
    .map(([name, value]) => `${name}: ${value}`)
    .join(" · ");

export const isFinal = (record) => record.upload_status === "COMPLETE" || record.upload_status === "ERROR";

// What a File's state looks like: a label, a sentence, and how much of the way to S3 is behind it.
export function stateOf(record) {
  const { upload_status: status, error, size, bytes_sent: sent } = record;
  const state = { status, label: LABELS[status] ?? status, detail: error ?? "", done: null };
  if (status === "PENDING" && error) state.detail = `${error} It will be tried again.`;
  if (status === "PROCESSING" && sent != null && size) {
    state.done = sent / size;
    state.label = `${LABELS.PROCESSING} ${Math.floor(state.done * 100)} %`;
  }
  return state;
}

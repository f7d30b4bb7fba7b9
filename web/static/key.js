// The key or token that a service may ask for. It is held here, in memory, and is gone with the page.

const dialog = document.querySelector("#ask-key");
const input = dialog.querySelector("input");
const error = dialog.querySelector(".error");
const enterButton = document.querySelector("#enter-key");
const forgetButton = document.querySelector("#forget-key");

let key = tokenOfAddress();
let asking = null;
let declined = false;

// A token that the address brings after its #, which no server and no log ever sees. It does not stay there.
function tokenOfAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token !== null) history.replaceState(history.state, "", location.pathname + location.search);
  return token || null;
}

export const hasKey = () => key !== null;
export const current = () => key;
export const bearer = (value = key) => (value ? { Authorization: `Bearer ${value}` } : {});

// Ask again when a key is needed, although the reader did not want to give one.
export function askAgain() {
  declined = false;
}

// Wait for another key than the one that was refused. False if the reader would rather not give one.
export function another(refused) {
  if (key !== refused) return Promise.resolve(true);
  if (declined) return Promise.resolve(false);
  asking ??= ask(refused ? "What you gave is no longer valid." : "").finally(() => (asking = null));
  return asking;
}

function ask(reason) {
  error.textContent = reason;
  input.value = "";
  dialog.showModal();
  dialog.returnValue = "";
  return new Promise((resolve) => {
    dialog.onclose = () => {
      declined = dialog.returnValue !== "taken";
      enterButton.hidden = !declined;
      forgetButton.hidden = declined;
      resolve(!declined);
    };
  });
}

enterButton.addEventListener("click", () => {
  askAgain();
  another(key);
});
forgetButton.addEventListener("click", () => location.reload());

dialog.querySelector("[value=cancel]").addEventListener("click", () => dialog.close());

dialog.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const candidate = input.value.trim();
  error.textContent = "";
  const refusal = await refusalOf(candidate);
  if (refusal) {
    error.textContent = refusal;
    input.select();
    return;
  }
  key = candidate;
  input.value = "";
  dialog.close("taken");
  dispatchEvent(new Event("key"));
});

async function refusalOf(candidate) {
  if (!/^[!-~]+$/.test(candidate)) return "This is not a key.";
  try {
    const answer = await fetch("/files?limit=1", { headers: bearer(candidate) });
    if (answer.status === 401) return "This is not known here. Look for a missing character, or ask for a new one.";
    const isForUploadsOnly = answer.status === 403;
    return answer.ok || isForUploadsOnly ? "" : `The service answered ${answer.status}. Try again in a moment.`;
  } catch {
    return "The service does not answer. Try again in a moment.";
  }
}

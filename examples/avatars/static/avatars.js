// The page's side of an upload: fetch a token from our own app, send the file to Ferryman, wait for the avatar.

const form = document.querySelector("#send");
const image = document.querySelector("#avatar");
const news = document.querySelector("#news");

async function ask(method, path) {
  const answer = await fetch(path, { method });
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}.`);
  return answer.json();
}

// XMLHttpRequest, since fetch() does not tell how much is sent.
function send(address, token, file, onProgress) {
  return new Promise((resolve, reject) => {
    const body = new FormData();
    body.append("file", file);
    const xhr = new XMLHttpRequest();
    xhr.open("POST", address);
    xhr.responseType = "json";
    xhr.setRequestHeader("Authorization", `Bearer ${token}`);
    xhr.setRequestHeader("Idempotency-Key", crypto.randomUUID());
    xhr.upload.onprogress = ({ loaded, total }) => onProgress(loaded / total);
    xhr.onload = () => (xhr.status === 202 ? resolve(xhr.response) : reject(new Error(xhr.response.detail)));
    xhr.onerror = () => reject(new Error("The connection broke."));
    xhr.send(body);
  });
}

// Our app hears of the file by the webhook, and then knows the avatar.
async function avatarIs(id) {
  for (let tries = 0; tries < 60; tries += 1) {
    if ((await ask("GET", "/me")).avatar === id) return true;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  return false;
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const bar = form.querySelector("progress");
  bar.hidden = false;
  try {
    const { token, address } = await ask("POST", "/upload-token");
    const onProgress = (done) => (bar.value = done);
    const file = await send(address, token, form.elements.picture.files[0], onProgress);
    news.textContent = "Uploaded. It will be your avatar in a moment.";
    if (!(await avatarIs(file.id))) throw new Error("It takes long. Look again later.");
    image.src = `/avatar?${file.id}`;
    image.hidden = false;
    news.textContent = "This is your avatar.";
  } catch (error) {
    news.textContent = error.message;
  }
});

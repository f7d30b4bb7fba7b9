// Uppy as it comes from npm, with its plain form upload and a token: `npm install --prefix examples/avatars/static`.

import { Dashboard, Uppy, XHRUpload } from "/static/node_modules/uppy/dist/uppy.min.mjs";

async function fetchToken() {
  const answer = await fetch("/upload-token", { method: "POST" });
  return answer.json();
}

const { address } = await fetchToken();
const uppy = new Uppy({ restrictions: { maxNumberOfFiles: 1, allowedFileTypes: ["image/png", "image/jpeg", "image/webp"] } });
uppy.use(Dashboard, { target: "#drop", inline: true, proudlyDisplayPoweredByUppy: false });
uppy.use(XHRUpload, {
  endpoint: address,
  fieldName: "file",
  getResponseData: (xhr) => ({ ...JSON.parse(xhr.responseText), url: xhr.getResponseHeader("Location") }),
  async onBeforeRequest(xhr) {
    const { token } = await fetchToken(); // for each try, so that none is too old
    xhr.setRequestHeader("Authorization", `Bearer ${token}`);
  },
});

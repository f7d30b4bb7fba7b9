// Uploads, lists, downloads and deletes with types that were made from docs/openapi.json.
import createClient from "openapi-fetch";
import type { paths } from "./api";

declare const process: { argv: string[] };

const client = createClient<paths>({ baseUrl: process.argv[2] });

function known<T>(answer: { data?: T; error?: unknown }): T {
  if (answer.data === undefined) throw new Error(JSON.stringify(answer.error));
  return answer.data;
}

const accepted = known(
  await client.POST("/async_upload", {
    body: { file: "" },
    bodySerializer: () => {
      const form = new FormData();
      form.append("file", new Blob(["hello"]), "報告書.txt");
      return form;
    },
  }),
);
const params = { path: { file_id: accepted.id } };
let file = accepted;
while (file.upload_status === "PENDING" || file.upload_status === "PROCESSING") {
  file = known(await client.GET("/files/{file_id}", { params, headers: { Prefer: "wait=20" } }));
}
const listed = known(await client.GET("/files", { params: { query: { name: "報告", limit: 1 } } }));
const content = known(
  await client.GET("/files/{file_id}/content", {
    params: { ...params, query: { proxy: "1" } },
    parseAs: "text",
  }),
);
const deleted = await client.DELETE("/files/{file_id}", { params });
console.log(
  JSON.stringify({
    name: file.name,
    status: file.upload_status,
    listed: listed.files.map((one) => one.id === accepted.id),
    content,
    deleted: deleted.response.status,
  }),
);

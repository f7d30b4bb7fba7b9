// The Node peers, one server: busboy to a file, busboy to S3, and tus with its file store and its S3 store.
// node peers.mjs PORT FOLDER S3_ENDPOINT BUCKET
import { createWriteStream, unlink } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { S3Client } from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import { FileStore } from "@tus/file-store";
import { S3Store } from "@tus/s3-store";
import { Server } from "@tus/server";
import busboy from "busboy";

const [port, folder, endpoint, bucket] = process.argv.slice(2);
const s3Config = {
  endpoint,
  region: "us-east-1",
  forcePathStyle: true,
  credentials: { accessKeyId: "bench", secretAccessKey: "bench-secret" },
};
const s3 = new S3Client(s3Config);
const tus = {
  "/tus_file": new Server({ path: "/tus_file", datastore: new FileStore({ directory: folder }) }),
  "/tus_s3": new Server({ path: "/tus_s3", datastore: new S3Store({ s3ClientConfig: { bucket, ...s3Config } }) }),
};
let number = 0;

function toFile(stream, answer) {
  const path = join(folder, `busboy-${++number}`);
  stream.pipe(createWriteStream(path)).on("close", () => {
    answer(202);
    unlink(path, () => {});
  });
}

function toS3(stream, answer) {
  const params = { Bucket: bucket, Key: `busboy-${++number}`, Body: stream };
  new Upload({ client: s3, params }).done().then(() => answer(201), (error) => answer(502, String(error)));
}

createServer((request, response) => {
  const answer = (status, text = "{}") => {
    response.writeHead(status, { "Content-Length": Buffer.byteLength(text) });
    response.end(text);
  };
  const path = `/${request.url.split("/")[1]}`;
  if (path in tus) return tus[path].handle(request, response);
  if (request.method !== "POST") return answer(200);
  const store = path === "/busboy_s3" ? toS3 : toFile;
  request.pipe(busboy({ headers: request.headers }).on("file", (_, stream) => store(stream, answer)));
}).listen(Number(port), "127.0.0.1");

// @tus/server with its file store, as its README has it. node tus_server.mjs PORT FOLDER
import { FileStore } from "@tus/file-store";
import { Server } from "@tus/server";

const [port, directory] = process.argv.slice(2);
new Server({ path: "/uploads", datastore: new FileStore({ directory }) }).listen({ host: "127.0.0.1", port: Number(port) });

// Bundles the unchanged packages for a browser: node bundle.mjs OUTPUT
import { build } from "esbuild";

await build({
  stdin: {
    contents: `
      export { default as Uppy } from "@uppy/core";
      export { default as AwsS3 } from "@uppy/aws-s3";
      export { default as GoldenRetriever } from "@uppy/golden-retriever";`,
    resolveDir: import.meta.dirname,
  },
  bundle: true,
  format: "iife",
  globalName: "Uploads",
  outfile: process.argv[2],
});

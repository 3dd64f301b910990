// Read a store without Python: node read.mjs study.zarr RELATION SITE
// prints, as JSON, the relation's best neuron of a site, its average precision, and its activation on every prompt.
import { FileSystemStore } from "@zarrita/storage";
import * as zarr from "zarrita";

// browsers and Node 24 have it; activations are float16 where `--dtype` says nothing else
globalThis.Float16Array ??= (await import("@petamoriken/float16")).Float16Array;

const [folder, relation, site] = process.argv.slice(2);
const root = zarr.root(new FileSystemStore(folder));
const open = (path) => zarr.open(root.resolve(path), { kind: "array" });

const names = await zarr.get(await open(`scores/${site}/relation`)); // strings
const at = names.data.indexOf(relation);
const scores = await zarr.get(await open(`scores/${site}/average_precision`), [at, null, null]); // [layer, neuron]

const best = scores.data.reduce((first, value, place) => (value > scores.data[first] ? place : first), 0);
const [place, neuron] = [Math.floor(best / scores.shape[1]), best % scores.shape[1]];
const layers = await zarr.get(await open(`scores/${site}/layer`)); // the model's own numbers, int64

const { attrs } = await zarr.open(root, { kind: "group" });
const committed = await zarr.get(await open("commits/record")); // [block, field]; start and stop come first
const values = await zarr.get(await open(`activations/${site}/activation`), [null, place, neuron]); // [prompt]
const stops = Array.from({ length: committed.shape[0] }, (_, block) => Number(committed.data[block * committed.stride[0] + 1]));

console.log(JSON.stringify({
  model: attrs.relact.model.id,
  layer: Number(layers.data[place]),
  neuron,
  average_precision: scores.data[best],
  captured: Math.max(...stops), // what lies behind it does not exist: a block without a commit
  activation: Array.from(values.data, Number),
}));

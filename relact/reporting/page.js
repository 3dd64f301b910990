"use strict";
// Everything that comes from the store reaches the page through textContent or as data of a chart, never as markup.
const page = JSON.parse(document.getElementById("data").textContent);
const byId = (name) => document.getElementById(name);
const choice = { relation: page.relations[0], site: "all", choice: page.choices[0] || null, swept: (document.querySelector("[data-signal=swept]") || {}).value, order: "given" };
const views = {};
const STEP = 20;
let shown = STEP;
let order = { key: "ap", down: true };
let opened = null;

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// --- charts ---------------------------------------------------------------------------------------------------------

const dark = () => document.documentElement.dataset.theme === "dark";

async function draw() {
  const specs = page.specs[dark() ? "dark" : "light"];
  for (const [name, spec] of Object.entries(specs)) {
    if (views[name]) views[name].finalize();
    const datasets = Object.fromEntries(page.uses[name].map((key) => [key, page.datasets[key]]));
    const options = { renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false }, downloadFileName: name };
    views[name] = (await vegaEmbed(byId("f-" + name), { ...spec, datasets: structuredClone(datasets) }, options)).view;
    if (!performance.getEntriesByName("first chart").length) performance.mark("first chart");
  }
  follow();
  document.documentElement.dataset.drawn = dark() ? "dark" : "light";
}

function follow() {
  for (const [name, view] of Object.entries(views)) {
    for (const signal of page.signals[name]) view.signal(signal, choice[signal]);
    view.runAsync();
  }
}

// --- tables ---------------------------------------------------------------------------------------------------------

const text = (value) => typeof value !== "number" ? String(value ?? "") : Number.isInteger(value) ? value.toLocaleString("en") : value.toPrecision(4).replace(/\.?0+$/, "");

function header(columns, sorting, sort) {
  const cells = columns.map(({ key, title, number }) => {
    const cell = element("th", { scope: "col", class: number ? "number" : "" });
    if (sorting.key === key) cell.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
    cell.append(element("button", { type: "button", text: title, onclick: () => sort(key, number) }));
    return cell;
  });
  return element("thead", {}, element("tr", {}, ...cells));
}

function compare(key, down) {
  return (a, b) => {
    const [x, y] = [a[key], b[key]];
    const side = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
    return down ? -side : side;
  };
}

function numbers(details) {
  const name = details.dataset.figure;
  const wanted = page.signals[name].filter((signal) => page.filters[name].includes(signal));
  const rows = page.datasets[page.uses[name][0]].filter((row) => wanted.every((signal) => row[signal] === choice[signal]));
  const keys = page.columns[name];
  const columns = keys.map((key) => ({ key, title: key, number: rows.some((row) => typeof row[key] === "number") }));
  const sorting = { key: null, down: false };
  const table = element("table");
  const fill = () => {
    const sorted = sorting.key === null ? rows : [...rows].sort(compare(sorting.key, sorting.down));
    const lines = sorted.map((row) => element("tr", {}, ...columns.map(({ key, number }) => element("td", { class: number ? "number" : "", text: text(row[key]) }))));
    table.replaceChildren(header(columns, sorting, (key, number) => {
      sorting.down = sorting.key === key ? !sorting.down : number;
      sorting.key = key;
      fill();
    }), element("tbody", {}, ...lines));
  };
  fill();
  details.querySelector(".scroll").replaceChildren(table);
}

// --- neurons --------------------------------------------------------------------------------------------------------

const detailOf = new Map(page.details.map((detail) => [detail.row, detail]));

function neuronRows() {
  const at = page.relations.indexOf(choice.relation);
  const { site, layer, neuron, ap } = page.neurons;
  return site.map((_, row) => {
    let next = -1;
    for (let other = 0; other < ap.length; other++) if (other !== at && ap[other][row] !== null && (next < 0 || ap[other][row] > ap[next][row])) next = other;
    return { row, site: page.sites[site[row]], layer: layer[row], neuron: neuron[row], ap: ap[at][row],
      next: next < 0 ? "" : page.relations[next], nextAp: next < 0 ? null : ap[next][row] };
  }).filter((row) => row.ap !== null);
}

function matches(row, words) {
  const numbers = words.filter((word) => /^\d+$/.test(word)).map(Number);
  const sites = words.filter((word) => !/^\d+$/.test(word));
  if (!sites.every((word) => row.site.toLowerCase().includes(word))) return false;
  if (numbers.length >= 2) return row.layer === numbers[0] && row.neuron === numbers[1];
  return numbers.every((number) => row.neuron === number || row.layer === number);
}

function fillNeurons() {
  const columns = [
    { key: "rank", title: "rank", number: true }, { key: "site", title: "site" }, { key: "layer", title: "layer", number: true },
    { key: "neuron", title: "neuron", number: true }, { key: "ap", title: "average precision", number: true },
    { key: "next", title: "next best relation" }, { key: "nextAp", title: "there", number: true },
  ];
  const words = byId("search").value.toLowerCase().split(/[\s,/]+/).filter(Boolean);
  let rows = neuronRows().sort((a, b) => b.ap - a.ap || a.row - b.row);
  if (choice.site !== "all") rows = rows.filter((row) => row.site === choice.site);
  rows.forEach((row, at) => { row.rank = at + 1; });
  rows = rows.filter((row) => matches(row, words));
  if (order.key !== "ap" || !order.down) rows.sort(compare(order.key, order.down));
  const body = element("tbody");
  for (const row of rows.slice(0, shown)) {
    const line = element("tr", {}, ...columns.map(({ key, number }) => element("td", { class: number ? "number" : "", text: key === "rank" || key === "layer" || key === "neuron" ? String(row[key]) : typeof row[key] === "number" ? row[key].toFixed(4) : text(row[key]) })));
    const open = row.row === opened;
    const button = element("button", { type: "button", class: "open", "aria-expanded": String(open), "aria-label": `Details of ${row.site} ${row.layer} ${row.neuron}`, text: open ? "−" : "+",
      onclick: () => { opened = open ? null : row.row; fillNeurons(); byId("neurons").querySelector(`[data-row="${row.row}"]`)?.focus(); } });
    button.dataset.row = row.row;
    line.append(element("td", {}, button));
    body.append(line);
    if (open) body.append(element("tr", { class: "detail" }, element("td", { colspan: columns.length + 1 }, element("p", {}, "Its own page: ", link(row)), detail(row))));
  }
  const head = header(columns, order, (key, number) => {
    order = { key, down: order.key === key ? !order.down : number && key !== "rank" };
    fillNeurons();
  });
  head.firstChild.append(element("th", { scope: "col", text: "" }));
  byId("neurons").replaceChildren(head, body);
  byId("more").hidden = rows.length <= shown;
  const said = byId("found");
  if (!words.length) said.replaceChildren();
  else if (rows.length) said.replaceChildren(`${rows.length} listed`);
  else said.replaceChildren("Not among the neurons listed on this page. Ask the store: ", element("code", { text: `relact neuron STORE ${words.join(" ")}` }));
}

function detail(row) {
  const parts = [element("div", {}, element("h3", { text: "Average precision in every relation" }), element("ul", {}, ...page.relations
    .map((name, at) => [name, page.neurons.ap[at][row.row]])
    .filter(([, value]) => value !== null)
    .sort((a, b) => b[1] - a[1])
    .map(([name, value]) => element("li", {}, element("span", { text: value.toFixed(3) }), element("span", {}, element("span", { class: "meter", style: `width: ${50 * value}%` }), ` ${name}`)))))];
  const found = detailOf.get(row.row);
  if (!found) {
    parts.push(element("div", {}, element("h3", { text: "Prompts" }), element("p", { text: `relact neuron STORE ${row.site} ${row.layer} ${row.neuron} shows the prompts that drive this neuron.` })));
  } else {
    for (const [title, list] of [["Prompts that drive it most", found.most], ["Least", found.least]]) {
      parts.push(element("div", {}, element("h3", { text: title }), element("ul", {}, ...list.map((at) => {
        const prompt = page.prompts[at];
        const last = prompt.text.trim().split("\n").pop();
        return element("li", { title: prompt.text }, element("span", { text: found.activation[at].toFixed(2) }), element("span", { class: "prompt" }, last, " ", element("small", { text: `${prompt.object} (${prompt.relation})` })));
      }))));
    }
    const heads = ["relation", "min", "10 %", "median", "90 %", "max"];
    const lines = page.relations.map((name, at) => element("tr", {}, element("td", { text: name }), ...found.spread[at].map((value) => element("td", { class: "number", text: value.toFixed(2) }))));
    parts.push(element("div", { class: "scroll wide", tabindex: "0" }, element("h3", { text: "Its activation in every relation" }), element("table", {}, element("thead", {}, element("tr", {}, ...heads.map((name, at) => element("th", { scope: "col", class: at ? "number" : "", text: name })))), element("tbody", {}, ...lines))));
  }
  return element("div", { class: "columns" }, ...parts);
}

// --- texts ----------------------------------------------------------------------------------------------------------

let everyText = false;

function fillSpoken() {
  const table = byId("spoken");
  if (!table) return;
  const rows = page.spoken[choice.choice] || [];
  const lost = (name) => rows.filter((row) => row.relation === name).reduce((sum, row) => sum + row.right[0] - row.right[1], 0);
  const names = [...new Set(rows.map((row) => row.relation))].sort((a, b) => lost(b) - lost(a));
  const verdict = (right) => (right === null ? "said" : right ? "said right" : "said wrong");
  const lines = names.flatMap((name) => rows.filter((row) => row.relation === name).slice(0, everyText ? undefined : 1).map((row) =>
    element("tr", {}, element("td", { text: row.relation }), element("td", { text: row.text }), element("td", { text: row.answer }),
      ...["intact", "own", "random"].map((key, at) => element("td", { class: verdict(row.right[at]), text: row[key] === null ? "" : row[key].trim().split("\n")[0] || "(nothing)" })))));
  const heads = ["relation", "prompt", "answer", "as it is", "without its own neurons", "without random ones"];
  table.replaceChildren(element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", { scope: "col", text })))), element("tbody", {}, ...lines));
  byId("more-spoken").hidden = everyText || rows.length === lines.length;
}

// --- one neuron -----------------------------------------------------------------------------------------------------

const placeOf = (row) => `${row.site}/${row.layer}/${row.neuron}`;
const unitOf = new Map(page.units.map((unit) => [placeOf(unit), unit]));
const listedAt = new Map(page.neurons.site.map((site, row) => [`${page.sites[site]}/${page.neurons.layer[row]}/${page.neurons.neuron[row]}`, row]));
const link = (row) => element("a", { href: `#${placeOf(row)}`, text: placeOf(row) });
const chips = (words, most) => words.slice(0, most).map((word) => element("span", { class: "chip", text: word.trim() || "\u2423".repeat(word.length) }));

function tokens({ tokens, values }) {
  const start = Math.max(0, tokens.slice(0, -1).map((token) => token.includes("\n")).lastIndexOf(true) + 1);
  const far = Math.max(...values.slice(start).map(Math.abs), 1e-12);
  return element("div", { class: "tokens" }, ...tokens.slice(start).map((token, at) => {
    const value = values[start + at];
    const share = Math.abs(value) / far;
    const [r, g, b] = value > 0 ? [224, 130, 20] : [67, 147, 195];
    return element("span", { text: token.replaceAll("\n", "\u21b5"), title: String(value), style: `background: rgba(${r}, ${g}, ${b}, ${share < 0.04 ? 0 : (0.85 * share).toFixed(2)})` });
  }));
}

function meters(title, scores) {
  const far = Math.max(...scores.map(([, value]) => Math.abs(value)), 1e-12);
  return element("div", {}, element("h3", { text: title }), element("ul", {}, ...scores.sort((a, b) => b[1] - a[1]).map(([name, value]) =>
    element("li", {}, element("span", { text: value.toFixed(3) }), element("span", {}, element("span", { class: "meter", style: `width: ${(50 * Math.max(0, value)) / far}%` }), ` ${name}`)))));
}

function showOne(scroll) {
  const asked = decodeURIComponent(location.hash.slice(1));
  const unit = unitOf.get(asked);
  const row = listedAt.get(asked);
  const there = unit !== undefined || row !== undefined;
  byId("one").hidden = !there && !/^[a-z]+\.[a-z]+\/\d+\/\d+$/.test(asked);
  if (byId("one").hidden) return;
  byId("h-one").textContent = asked;
  const parts = [];
  if (unit) {
    parts.push(element("p", { text: unit.of.map(([mask, relation, rank]) => `number ${rank} of ${relation} in ${mask}`).join("; ") }));
    const columns = element("div", { class: "columns" });
    for (const [title, words] of [["Promotes", unit.promoted], ["Suppresses", unit.suppressed]])
      if (words.length) columns.append(element("div", {}, element("h3", { text: title }), ...chips(words, 10)));
    if (row === undefined || unit.statistic !== "average_precision") columns.append(meters(`${unit.statistic} in every relation`, page.relations.map((name, at) => [name, unit.scores[at]]).filter(([, value]) => value !== null)));
    if (unit.prompts.length) columns.append(element("div", { class: "wide" }, element("h3", { text: `Where it acts (${unit.prompts[0].quantity}; orange more, blue less)` }), ...unit.prompts.map(tokens)));
    parts.push(element("div", { class: "detail" }, columns));
  }
  if (row !== undefined) parts.push(element("div", { class: "detail" }, detail({ row, site: page.sites[page.neurons.site[row]], layer: page.neurons.layer[row], neuron: page.neurons.neuron[row] })));
  if (!there) parts.push(element("p", {}, "Not on this page. Ask the store: ", element("code", { text: `relact neuron STORE ${asked.split("/").join(" ")} --writes` })));
  byId("unit").replaceChildren(...parts);
  if (scroll) byId("one").scrollIntoView();
}

function fillUnits() {
  const table = byId("units");
  if (!table) return;
  const rows = page.units.flatMap((unit) => unit.of.filter(([, relation]) => relation === choice.relation).map(([mask, , rank]) => ({ unit, mask, rank })))
    .filter(({ unit }) => choice.site === "all" || unit.site === choice.site)
    .sort((a, b) => a.mask.localeCompare(b.mask) || a.rank - b.rank);
  const heads = [["neuron"], ["mask"], ["rank", "number"], ["promotes"], ["suppresses"]];
  const lines = rows.map(({ unit, mask, rank }) => element("tr", {}, element("td", {}, link(unit)), element("td", { text: mask }), element("td", { class: "number", text: String(rank) }),
    element("td", {}, ...chips(unit.promoted, 6)), element("td", {}, ...chips(unit.suppressed, 6))));
  table.replaceChildren(element("thead", {}, element("tr", {}, ...heads.map(([text, kind]) => element("th", { scope: "col", class: kind || "", text })))), element("tbody", {}, ...lines));
}

function widths() {
  for (const place of document.querySelectorAll(".scroll")) {
    place.classList.toggle("wider", place.scrollWidth > place.clientWidth + 2);
    pin(place);
  }
}

// Names of a figure's rows stay in sight where it is scrolled sideways, as the first column of a table does: what they would lie upon is cut off.
function pin(place) {
  const [names, ...more] = place.querySelectorAll('.role-axis[aria-label^="Y-axis"]');
  if (!names || more.length) return;
  names.setAttribute("transform", `translate(${place.scrollLeft},0)`);
  for (const drawn of names.parentNode.querySelectorAll(":scope > .role-mark, :scope > .role-axis")) {
    const hidden = place.scrollLeft - drawn.getBBox().x;
    if (drawn !== names) drawn.style.clipPath = place.scrollLeft && hidden > 0 ? `inset(-2rem -2rem -2rem ${hidden}px)` : "";
  }
}

// --- controls -------------------------------------------------------------------------------------------------------

function refresh() {
  for (const place of document.querySelectorAll("[data-show]")) place.textContent = choice[place.dataset.show];
  follow();
  fillNeurons();
  fillSpoken();
  fillUnits();
  widths();
  for (const details of document.querySelectorAll("details.numbers[open]")) numbers(details);
  if (!choice.choice) return;
  for (const place of document.querySelectorAll(".about")) place.textContent = page.abouts[choice.choice];
  byId("lead").textContent = page.leads[choice.choice];
  byId("claims").replaceChildren(...page.claims[choice.choice].map((text) => element("li", { text })));
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  byId("theme").setAttribute("aria-pressed", String(name === "dark"));
  byId("theme").textContent = name === "dark" ? "Light" : "Dark";
}

for (const select of document.querySelectorAll("select")) {
  const name = select.dataset.signal || select.id;
  select.addEventListener("change", (event) => { choice[name] = event.target.value; shown = STEP; opened = null; refresh(); });
}
byId("search").addEventListener("input", () => { shown = STEP; fillNeurons(); });
byId("more-spoken")?.addEventListener("click", () => { everyText = true; fillSpoken(); });
addEventListener("hashchange", () => showOne(true));
addEventListener("resize", widths);
addEventListener("scroll", (event) => event.target.matches?.(".scroll") && pin(event.target), { capture: true, passive: true });
byId("more").addEventListener("click", () => { shown += 5 * STEP; fillNeurons(); });
byId("theme").addEventListener("click", () => { theme(dark() ? "light" : "dark"); draw(); });
for (const details of document.querySelectorAll("details.numbers")) details.addEventListener("toggle", () => details.open && numbers(details));
theme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
refresh();
showOne(false);
draw().then(() => { widths(); if (!byId("one").hidden) byId("one").scrollIntoView(); });

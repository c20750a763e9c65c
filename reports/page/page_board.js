// The leaderboard: one row for each cell and read-out that the filters let through. The address keeps them.
// The metric that is sorted by at first comes first.
const METRICS = [...data.metrics].sort((a, b) => (b.key === "edit_performance") - (a.key === "edit_performance"));
const MAIN = "main";
const FACETS = [
  {key: "model", title: "Model", of: entry => entry.model},
  {key: "t", title: "T", of: entry => String(entry.n_edits), label: value => (value === MAIN ? "most run" : whole(Number(value)))},
  {key: "dataset", title: "Dataset", of: entry => entry.dataset},
  {key: "readout", title: "Read-out", values: data.readouts.map(one => one.key), label: titleOf},
  {key: "method", title: "Method", of: entry => entry.method},
  {key: "cases", title: "Cases", of: entry => entry.split},
];
const board = document.getElementById("board");
const hasReadout = data.entries.some(entry => entry.scores[data.readout]);
const DEFAULTS = {model: [], dataset: [], t: [MAIN], readout: hasReadout ? [data.readout] : [], method: [], cases: ["evaluation"]};
// Pairs of model and dataset with the most cells come first.
const cellsOf = group => data.entries.filter(entry => entry.group === group).length;
const GROUPS = [...new Set(data.entries.map(entry => entry.group))].sort((a, b) => cellsOf(b) - cellsOf(a));
let state;

function fresh() {
  const filters = Object.fromEntries(Object.entries(DEFAULTS).map(([key, values]) => [key, new Set(values)]));
  return {...filters, search: "", sort: "edit_performance", down: true, grouped: true, cell: "", metric: ""};
}

for (const facet of FACETS) {
  facet.values ??= [...new Set(data.entries.map(facet.of))];
  if (facet.key === "t") facet.values = [MAIN, ...facet.values.sort((a, b) => a - b)];
}

// Columns: `at` is what is sorted by; `cell` is what a row shows.
const words = (key, title, at, extra = {}) => ({key, title, at, left: true, cell: row => make("td", {class: "left"}, at(row)), ...extra});
const figures = (key, title, note, at, show) => ({
  key, title, note, at,
  when: () => data.entries.some(entry => at({entry}) !== null),
  cell: row => make("td", {}, at(row) === null ? make("span", {class: "gap", title: "not measured"}, DASH) : show(at(row))),
});
const COLUMNS = [
  {key: "method", title: "Method", at: row => row.entry.method, left: true, cell: nameOf},
  words("model", "Model", row => row.entry.model, {when: () => !state.grouped}),
  words("dataset", "Dataset", row => row.entry.dataset, {when: () => !state.grouped}),
  {key: "t", title: "T", note: "edits in force together", at: row => row.entry.n_edits, cell: row => make("td", {}, whole(row.entry.n_edits))},
  words("readout", "Read-out", row => (row.readout ? titleOf(row.readout) : null), {when: () => state.readout.size !== 1}),
  ...METRICS.map(metric => ({...metric, note: metric.key.replace("_", " "), score: true, at: row => markOf(row, metric.key)?.[0] ?? null,
    cell: row => scoreOf(row, metric)})),
  figures("edit", "s/edit", "seconds per edit, preparation apart", row => (row.entry.unedited ? null : row.entry.spent?.per_edit_s ?? null),
    value => String(Number(value.toPrecision(2)))),
  figures("peak", "Memory", "peak memory of the process, or of the GPU", row => row.entry.spent?.peak_bytes || null, size),
  figures("outside", "Outside", "gate fires on prompts about nobody edited, percent", row => row.entry.fires_outside, plain),
  figures("ability", "Ability", "kept of the unedited model's general abilities, percent", row => row.entry.ability_kept, plain),
];

function markOf(row, metric) {
  return row.readout ? kept(row.entry.scores[row.readout]?.[metric]) : null;
}

function nameOf({entry}) {
  return make("th", {scope: "row"}, make("span", {class: "method"}, entry.method),
    entry.regime && make("span", {class: "regime", title: entry.regime}, entry.regime.slice(0, 3)));
}

function scoreOf(row, metric) {
  const mark = markOf(row, metric.key);
  if (!mark) return make("td", {}, make("span", {class: "gap", title: "no answers of the unedited model to compare with, or not asked"}, DASH));
  const [value, low, high, published, leads] = mark;
  const name = `${metric.key.replace("_", " ")} ${plain(value)} ${half(mark)}${leads ? ", among the best" : ""}${published === null ? "" : `,
    published ${plain(published)}`}: show answers`;
  const button = make("button",
    {type: "button", class: "score", "aria-label": name, "aria-haspopup": "dialog", "data-cell": row.entry.cell, "data-metric": metric.key,
    onclick: () => openPanel(row.entry, metric.key, row.readout)}, make("span", {class: "value"}, plain(value)),
      make("span", {class: "half"}, half(mark)));
  const bar = make("span", {class: "bar", "aria-hidden": "true"}, make("i"), make("b"));
  bar.style.setProperty("--low", (low ?? value) + "%");
  bar.style.setProperty("--high", (high ?? value) + "%");
  bar.style.setProperty("--at", value + "%");
  const paper = published === null ? null : make("span", {class: "paper", title: "published, and ours less it"},
    `${plain(published)}, ${signed(value - published)}`);
  return make("td", {class: leads ? "n lead" : "n"}, button, bar, paper);
}

function passes(entry) {
  const inFacets = FACETS.every(facet => {
    const chosen = state[facet.key];
    if (!facet.of || !chosen.size) return true;
    return chosen.has(facet.of(entry)) || (facet.key === "t" && entry.main && chosen.has(MAIN));
  });
  const text = [entry.method, entry.group, entry.regime, entry.status, entry.why, "T=" + entry.n_edits].join(" ").toLowerCase();
  return inFacets && state.search.toLowerCase().split(/\s+/).every(word => text.includes(word));
}

function rowsOf(entries) {
  const readouts = data.readouts.map(one => one.key).filter(key => !state.readout.size || state.readout.has(key));
  const rows = entries.flatMap(entry => (entry.why ? [{entry,
    readout: null}] : readouts.filter(key => entry.scores[key]).map(readout => ({entry, readout}))));
  const column = COLUMNS.find(one => one.key === state.sort) ?? COLUMNS[0];
  return rows.sort((a, b) => compare(column.at(a), column.at(b), state.down) || compare(a.entry.method, b.entry.method,
    false) || a.entry.n_edits - b.entry.n_edits);
}

function lineOf(row, columns) {
  if (!row.entry.why) return make("tr", {class: row.entry.unedited ? "unedited" : null}, columns.map(column => column.cell(row)));
  const front = columns.filter(column => !column.score && column.key !== "readout" && ["method", "model", "dataset", "t"].includes(column.key));
  const why = make("td", {class: "reason", colspan: columns.length - front.length},
    make("button", {type: "button", class: "plain", "aria-haspopup": "dialog",
    onclick: () => openPanel(row.entry, "all", null)}, row.entry.why));
  return make("tr", {class: "failed"}, front.map(column => column.cell(row)), why);
}

function headOf(columns) {
  return make("thead", {}, make("tr", {}, columns.map(column => make("th", {
    scope: "col", class: column.left ? "left" : null, title: column.note,
      "aria-sort": column.key === state.sort ? (state.down ? "descending" : "ascending") : null,
  }, make("button", {type: "button", "data-sort": column.key, onclick: () => sortBy(column)}, column.title)))));
}

function bodiesOf(rows, columns) {
  if (!state.grouped) return [make("tbody", {}, rows.map(row => lineOf(row, columns)))];
  const groups = GROUPS.map(group => [group, rows.filter(row => row.entry.group === group)]);
  return groups.filter(([, members]) => members.length).map(([group, members]) => make("tbody", {},
    make("tr", {class: "part"}, make("th", {colspan: columns.length, scope: "rowgroup"}, make("span", {}, group))),
      members.map(row => lineOf(row, columns))));
}

function render() {
  const entries = data.entries.filter(passes), rows = rowsOf(entries), shown = new Set(rows.map(row => row.entry.cell)).size;
  const columns = COLUMNS.filter(column => !column.when || column.when());
  const holder = board.querySelector(".holder");
  if (rows.length) holder.replaceChildren(make("table", {class: "board"}, make("caption", {class: "unseen"}, "Leaderboard"), headOf(columns),
    ...bodiesOf(rows, columns)));
  else holder.replaceChildren(make("p", {class: "empty"}, "No cell fits these filters. ",
    make("button", {type: "button", class: "plain", onclick: reset}, "Reset them")));
  const several = rows.length > shown ? `${whole(rows.length)} rows, ` : "";
  board.querySelector("[role=status]").textContent = `${several}${whole(shown)} of ${whole(data.entries.length)} cells`;
  for (const input of board.querySelectorAll("input[data-facet]")) {
    const chosen = state[input.dataset.facet];
    input.checked = input.value ? chosen.has(input.value) : !chosen.size;
  }
  const search = board.querySelector("input[type=search]");
  if (search.value !== state.search) search.value = state.search;
  board.querySelector("[name=grouped]").checked = state.grouped;
  board.classList.toggle("apart", state.cases.has("development"));
  const chosen = FACETS.filter(facet => !sameSet(state[facet.key], new Set(DEFAULTS[facet.key]))).length;
  board.querySelector(".reset").disabled = !addressOf().replace(/&?(cell|metric)=[^&]*/g, "");
  board.querySelector(".filters > summary").textContent = chosen ? `Filters (${chosen} changed)` : "Filters";
}

const sameSet = (a, b) => a.size === b.size && [...a].every(value => b.has(value));

function sortBy(column) {
  state.down = state.sort === column.key ? !state.down : !column.left;
  state.sort = column.key;
  changed();
  board.querySelector(`[data-sort="${column.key}"]`).focus();
}

function reset() {
  state = fresh();
  changed();
  board.querySelector("input[type=search]").focus();
}

// The address: only what differs from the first view; "T=" with nothing after it is all of them.
function addressOf() {
  const parts = new URLSearchParams();
  for (const {key} of FACETS) if (!sameSet(state[key], new Set(DEFAULTS[key]))) parts.set(key, [...state[key]].map(encodeURIComponent).join(","));
  if (state.search) parts.set("search", state.search);
  if (state.sort !== "edit_performance" || !state.down) parts.set("sort", (state.down ? "-" : "") + state.sort);
  if (!state.grouped) parts.set("grouped", "no");
  if (state.cell) parts.set("cell", state.cell);
  if (state.cell && state.metric) parts.set("metric", state.metric);
  return parts.toString();
}

function restore() {
  const text = location.hash.slice(1);
  if (text && !text.includes("=")) return state ??= fresh();
  state = fresh();
  const parts = new URLSearchParams(text);
  for (const facet of FACETS) {
    if (!parts.has(facet.key)) continue;
    const values = parts.get(facet.key).split(",").filter(Boolean).map(decodeURIComponent);
    state[facet.key] = new Set(values.filter(value => facet.values.includes(value)));
  }
  state.search = parts.get("search") ?? "";
  const sort = parts.get("sort") ?? "-edit_performance";
  if (COLUMNS.some(column => column.key === sort.replace(/^-/, ""))) [state.sort, state.down] = [sort.replace(/^-/, ""), sort.startsWith("-")];
  state.grouped = parts.get("grouped") !== "no";
  [state.cell, state.metric] = [parts.get("cell") ?? "", parts.get("metric") ?? ""];
  return state;
}

function keepAddress() {
  history.replaceState(null, "", "#" + addressOf());
}

function changed() {
  render();
  keepAddress();
}

function choose(facet, value) {
  const chosen = state[facet.key];
  if (!value) chosen.clear();
  else if (!chosen.delete(value)) chosen.add(value);
  changed();
}

function chipsOf(facet) {
  const chip = (value, text) => make("label",
    {class: "chip", title: value === MAIN ? "the T that most methods were run at; of several the largest" : null},
    make("input", {type: "checkbox", "data-facet": facet.key, value, onchange: () => choose(facet, value)}), make("span", {}, text));
  const chips = [chip("", "all"), ...facet.values.map(value => chip(value, facet.label ? facet.label(value) : value))];
  return make("fieldset", {"data-facet": facet.key}, make("legend", {}, facet.title), make("div", {class: "chips"}, chips));
}

function build() {
  const search = make("input",
    {type: "search", placeholder: "Search method, model, dataset …", "aria-label": "Search the leaderboard",
    oninput: event => { state.search = event.target.value; changed(); }});
  const grouped = make("label", {class: "check"},
    make("input", {type: "checkbox", name: "grouped", onchange: event => { state.grouped = event.target.checked; changed(); }}),
    " by model and dataset");
  const facets = FACETS.filter(facet => facet.values.length > (facet.key === "t" ? 2 : 1)).map(chipsOf);
  const filters = make("details", {class: "filters", open: matchMedia("(min-width: 48rem)").matches}, make("summary", {}, "Filters"),
    make("div", {class: "facets"}, facets));
  const line = make("div", {class: "line"}, search, grouped, make("p", {role: "status", "aria-live": "polite"}),
    make("button", {type: "button", class: "reset", onclick: reset}, "Reset"));
  board.append(filters, line,
    make("p", {class: "apart-note warning"}, "Development cases: edited to choose settings; their numbers are not results."),
    make("div", {class: "scroll holder", tabindex: "0", role: "region", "aria-label": "Leaderboard"}));
  board.hidden = false;
}

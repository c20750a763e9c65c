// The panel of a cell: its scores under every read-out, the raw answers behind one of them, what it cost and how it was made.
const panel = document.getElementById("panel");
const TABS = [
  {key: "all", title: "All", kinds: ["edit", "paraphrase", "locality"]},
  {key: "reliability", title: "Edit prompts", kinds: ["edit"]},
  {key: "generality", title: "Paraphrases", kinds: ["paraphrase"]},
  {key: "locality", title: "Same subject", kinds: ["locality"]},
  {key: "neighbours", title: "Other subjects", kinds: ["neighbour"]},
  {key: "portability", title: "Portability", kinds: ["portability"]},
  {key: "texts", title: "Free texts", kinds: []},
];
const KINDS = {edit: "Edit prompt", paraphrase: "Paraphrase", locality: "Same subject, other question", neighbour: "Other subject",
  portability: "Portability"};
const STAYS = ["locality", "neighbour"];
const plainly = text => text.replaceAll("_", " ");
const capital = text => text[0].toUpperCase() + text.slice(1);
let opener = null;

function openPanel(entry, metric, readout) {
  opener = document.activeElement;
  const tab = metric === "edit_performance" ? "all" : metric;
  [state.cell, state.metric] = [entry.cell, tab];
  keepAddress();
  panel.replaceChildren(headerOf(entry), make("div", {class: "content"}, matrixOf(entry, metric, readout), tabsOf(entry, tab), settingsOf(entry)));
  if (!panel.open) panel.showModal();
  panel.querySelector(".content").scrollTop = 0;
  (panel.querySelector("[role=tab][aria-selected=true]") ?? panel.querySelector(".close")).focus();
}

panel.addEventListener("close", () => {
  [state.cell, state.metric] = ["", ""];
  keepAddress();
  document.documentElement.classList.remove("still");
  // The leaderboard may have been redrawn meanwhile.
  const same = opener?.dataset?.cell && board.querySelector(`[data-cell="${opener.dataset.cell}"][data-metric="${opener.dataset.metric}"]`);
  (opener?.isConnected ? opener : same || board.querySelector(".holder"))?.focus();
});
panel.addEventListener("click", event => { if (event.target === panel) panel.close(); });

function headerOf(entry) {
  const draws = `${entry.draws} draw${entry.draws > 1 ? "s" : ""}`;
  return make("header", {},
    make("div", {}, make("h2", {id: "panel-title"}, entry.method),
    make("p", {class: "note"}, `${entry.group} · T = ${whole(entry.n_edits)} · ${draws}`)),
    make("button", {type: "button", class: "close", "aria-label": "Close", title: "Close (Esc)", onclick: () => panel.close()}, "×"));
}

function matrixOf(entry, metric, readout) {
  if (entry.why) return make("p", {class: "warning"}, entry.why);
  const extra = [["harmonic_mean", "HM"], ["same_relation", "same rel."], ["near_name", "near name"], ["far", "far"], ["portability", "Port"]];
  const found = [...METRICS.map(one => [one.key, one.title]),
    ...extra].filter(([key]) => Object.values(entry.scores).some(marks => kept(marks[key])));
  const rows = data.readouts.filter(one => entry.scores[one.key]).map(one => make("tr", {class: one.key === readout ? "here" : null},
    make("th", {scope: "row", title: one.note}, one.title), found.map(([key]) => {
      const mark = kept(entry.scores[one.key][key]);
      const title = mark && `${whole(mark[5])} answers${mark[6] === null ? "" : ` about ${whole(mark[6])} subjects`}`;
      return make("td", {class: [mark?.[4] ? "lead" : "", key === metric ? "here" : ""].join(" ").trim() || null, title},
        mark ? plain(mark[0]) : DASH, mark && make("span", {class: "half"}, half(mark)));
    })));
  const heads = found.map(([key, title]) => make("th", {scope: "col", title: plainly(key)}, title));
  return make("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Scores of this cell"},
    make("table", {class: "matrix"}, make("thead", {}, make("tr", {}, make("td"), heads)), make("tbody", {}, rows)));
}

function tabsOf(entry, first) {
  if (entry.why) return null;
  const samples = data.samples[entry.cell] ?? [], texts = data.texts[entry.cell] ?? [];
  const shown = TABS.filter(tab => (tab.key === "texts" ? texts.length : samples.some(one => tab.kinds.includes(one.kind))));
  if (!shown.length) return make("p", {class: "empty"}, "No answers are stored of this cell.");
  const content = make("div", {id: "answers", role: "tabpanel", tabindex: "0"});
  const buttons = shown.map(tab => make("button",
    {type: "button", role: "tab", id: "tab-" + tab.key, "aria-controls": "answers", onclick: () => select(tab)}, tab.title));
  const select = tab => {
    state.metric = tab.key;
    keepAddress();
    buttons.forEach((button, i) => { button.setAttribute("aria-selected", shown[i] === tab); button.tabIndex = shown[i] === tab ? 0 : -1; });
    content.setAttribute("aria-labelledby", "tab-" + tab.key);
    content.replaceChildren(...(tab.key === "texts" ? textsOf(texts) : answersOf(entry, tab, samples.filter(one => tab.kinds.includes(one.kind)))));
  };
  const list = make("div", {role: "tablist", "aria-label": "Kinds of question", onkeydown: event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    const next = (buttons.findIndex(button => button.tabIndex === 0) + step + buttons.length) % buttons.length;
    select(shown[next]);
    buttons[next].focus();
  }}, buttons);
  select(shown.find(tab => tab.key === first) ?? shown[0]);
  return make("section", {"aria-label": "Answers"}, list, content);
}

function answersOf(entry, tab, samples) {
  const parts = tab.kinds.flatMap(kind => [[kind, false], [kind, true], [kind, null]]).map(([kind, right]) => [kind, right,
    samples.filter(one => one.kind === kind && (one.is_right ?? null) === right)]);
  const errors = (data.errors[entry.cell] ?? []).filter(one => one.metric === tab.key);
  const shares = errors.length ? make("p", {class: "note"}, "Free answers that are wrong, percent of all: ",
    errors.map(one => `${plainly(one.error)} ${plain(one.share)}`).join(", "), ".") : null;
  const groups = parts.filter(([, , found]) => found.length).map(([kind, right, found]) => make("section", {},
    make("h3", {}, tab.kinds.length > 1 ? `${KINDS[kind]}: ${verdictOf(kind, right)}` : capital(verdictOf(kind, right))), found.map(cardOf)));
  const rule = "Up to three right and three wrong ones of each kind, by the free answer (WILD) where there is one, drawn by a fixed rule; "
    + "how many there are says nothing about their share.";
  return [make("p", {class: "note"}, rule), shares, ...groups].filter(Boolean);
}

function verdictOf(kind, right) {
  if (right === null || right === undefined) return "not comparable";
  return STAYS.includes(kind) ? (right ? "unchanged" : "changed") : right ? "right" : "wrong";
}

const toneOf = right => (right ? "yes" : right === false ? "no" : null);
const spoken = text => (text === undefined ? make("i", {}, "not asked") : text === "" ? make("i", {}, "nothing") : text);

function cardOf(sample) {
  const {kind} = sample;
  const tokens = sample.tf_right === undefined ? "not comparable" : `${sample.tf_right} of ${sample.tf_tokens} token${sample.tf_tokens > 1 ? "s" : ""}`;
  const free = sample.wild_right !== undefined || sample.wild_text !== undefined;
  const line = (name, note, unedited, edited, right, more) => make("tr", {}, make("th", {scope: "row", title: note}, name), make("td", {}, unedited),
    make("td", {}, edited),
    make("td", {class: toneOf(right)}, verdictOf(kind, right) + more));
  const lines = [
    make("tr", {}, make("th", {scope: "row", title: "teacher-forced: each token of the wanted answer, after the right ones"}, "TF"),
      make("td", {colspan: 2}, make("i", {}, "tokens only, no text")), make("td", {}, tokens)),
    line("AR", "generated, as many tokens as the reference has", spoken(sample.unedited_ar), spoken(sample.ar_text ?? ""), sample.ar_right, ""),
    free ? line("WILD", "generated to a natural stop", spoken(sample.unedited_wild), spoken(sample.wild_text ?? ""), sample.wild_right,
      sample.error ? `: ${plainly(sample.error)}` : "") : null,
  ];
  const heads = ["", "Unedited model", "Edited model",
    STAYS.includes(kind) ? "Against unedited" : "Against reference"].map(text => make("th", {scope: "col"}, text));
  const gate = sample.fired === undefined ? null : make("span", {}, "gate ", make("b", {}, sample.fired ? "fired" : "silent"));
  return make("article", {class: "answer " + (sample.is_right === false ? "wrong" : sample.is_right ? "right" : "")},
    make("p", {class: "prompt"}, sample.prompt),
    make("dl", {}, make("dt", {}, "Reference"), make("dd", {}, sample.answer, STAYS.includes(kind) ? make("i", {}, " (not scored)") : null)),
    make("table", {class: "said"}, make("thead", {}, make("tr", {}, heads)), make("tbody", {}, lines.filter(Boolean))),
    make("p", {class: "verdicts"}, gate, sample.stratum ? make("span", {}, plainly(sample.stratum)) : null,
      make("span", {}, `case ${sample.case_id}, draw ${sample.draw}`)));
}

function textsOf(texts) {
  return [make("p", {class: "note"}, "What the model writes after edit prompts, before and after editing; drawn by a fixed rule."),
    ...texts.map(one =>
    make("article", {class: "answer " + (one.holds ? "right" : "wrong")}, make("p", {class: "prompt"}, one.prompt),
      make("dl", {}, make("dt", {}, "Target"), make("dd", {}, one.target), make("dt", {}, "Before"), make("dd", {}, one.before ?? ""),
        make("dt", {}, "After"), make("dd", {}, one.after ?? "")),
      make("p", {class: "verdicts"}, make("span", {class: toneOf(one.holds)}, "free answer to the edit prompt ", verdictOf("edit", one.holds)),
        make("span", {}, `draw ${one.draw}`))))];
}

function settingsOf(entry) {
  const spent = entry.spent, list = [["Cell", entry.cell], ["Seed", entry.seed], ["Draws", entry.draws], ["Regime", entry.regime || DASH]];
  if (spent) {
    list.push(["Preparation, once", seconds(spent.prepare_s)], ["Per edit", seconds(spent.per_edit_s)], ["All edits", seconds(spent.edit_s)],
      ["Asking", seconds(spent.ask_s)],
      ["Patch", size(spent.patch_bytes)], ["Peak memory", size(spent.peak_bytes)]);
    if (spent.paper_minutes !== null) list.push(["Paper, all edits", `${spent.paper_minutes} min`]);
  }
  list.push(...Object.entries(entry.failed).map(([stage, why]) => [`Failed: ${stage}`, why]), ...Object.entries(entry.provenance));
  const terms = make("dl", {class: "settings"}, list.flatMap(([what, value]) => [make("dt", {}, what), make("dd", {}, String(value))]));
  const parameters = make("pre", {tabindex: "0"}, JSON.stringify(JSON.parse(entry.parameters), null, 2));
  return make("section", {class: "made"}, make("h3", {}, "How it was made"), terms, make("h3", {}, "Parameters"), parameters);
}

// Once everything is there: build the leaderboard, show what the address asks for.
function follow() {
  if (!board) return;
  restore();
  render();
  const entry = state.cell && data.entries.find(one => one.cell === state.cell);
  if (entry) openPanel(entry, state.metric || "all", [...state.readout][0] ?? null);
  else if (panel.open) panel.close();
}
if (board) {
  build();
  follow();
  addEventListener("hashchange", () => {
    follow();
    if (location.hash.includes("=")) document.getElementById("leaderboard").scrollIntoView();
  });
  for (const link of document.querySelectorAll("a.scripted")) link.hidden = false;
}

"use strict";
// What all parts of the page share. Text from the data reaches the page as text nodes only.
const data = JSON.parse(document.getElementById("data").textContent);

/** An element with attributes, listeners ("onclick") and children; texts become text nodes, null is left out. */
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter(child => child !== null && child !== undefined && child !== false));
  return node;
}

const DASH = "–";
const whole = number => number.toLocaleString("en");
const plain = number => (number === null || number === undefined ? DASH : number.toFixed(1));
const signed = number => (number < 0 ? "−" : "+") + Math.abs(number).toFixed(1);
const kept = mark => mark && mark[0] !== null ? mark : null;
const half = mark => (mark[1] === null || mark[2] === null ? "" : "±" + ((mark[2] - mark[1]) / 2).toFixed(1));
const titleOf = readout => data.readouts.find(one => one.key === readout).title;

function seconds(value) {
  if (value >= 120) return (value / 60).toFixed(1) + " min";
  if (value >= 10) return value.toFixed(1) + " s";
  if (value >= 0.1) return value.toFixed(2) + " s";
  return value ? (1000 * value).toFixed(1) + " ms" : DASH;
}

function size(value) {
  if (value >= 1e9) return (value / 1e9).toFixed(2) + " GB";
  if (value >= 1e6) return (value / 1e6).toFixed(0) + " MB";
  return value ? (value / 1e3).toFixed(1) + " kB" : DASH;
}

/** Order of two values of which one may be missing; what is missing comes last either way. */
function compare(a, b, down) {
  const gone = [a, b].map(value => value === null || value === undefined || value === "");
  if (gone[0] || gone[1]) return gone[0] - gone[1];
  const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", {numeric: true});
  return down ? -order : order;
}

// Tables of the page: the buttons in their heads sort the rows of each part.
function sortTable(button) {
  const head = button.closest("th"), table = head.closest("table"), column = Number(button.dataset.column);
  const before = head.getAttribute("aria-sort"), isNumber = table.querySelector(`tbody td:nth-child(${column + 1})[data-v]`) !== null;
  const down = before ? before === "ascending" : isNumber;
  for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = row => {
    const cell = row.cells[column];
    if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
    return cell.querySelector(".why") ? null : cell.textContent;
  };
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter(row => !row.classList.contains("part"));
    body.append(...rows.sort((a, b) => compare(value(a), value(b), down)));
  }
}
for (const button of document.querySelectorAll("table.results thead button[data-column]")) button.addEventListener("click", () => sortTable(button));

// A link to something inside a fold opens the fold.
function unfold() {
  const target = location.hash.length > 1 && !location.hash.includes("=") && document.getElementById(location.hash.slice(1));
  for (let node = target; node; node = node.parentElement) if (node.tagName === "DETAILS") node.open = true;
}
addEventListener("hashchange", unfold);
unfold();

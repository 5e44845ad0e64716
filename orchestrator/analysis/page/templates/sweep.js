"use strict";
for (const data of document.querySelectorAll("script.spec")) {
  const place = data.previousElementSibling;
  vegaEmbed(place, JSON.parse(data.textContent), { renderer: "svg" }).catch((error) => { place.textContent = `not drawn: ${error.message}`; });
}

for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copies);
    // Marked as well, for where a page may not copy.
    getSelection().selectAllChildren(text);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "copied";
    } catch {
      button.textContent = document.execCommand("copy") ? "copied" : "marked: copy it";
    }
  });
}

const table = document.getElementById("table");
const heads = [...table.tHead.rows[0].cells];
const names = heads.map((head) => head.textContent);
const body = table.tBodies[0];
// In the order of the grid, to which what is equal keeps.
const rows = [...body.rows];
const NUMBER = /^[-+]?(\d|\.\d|inf)/;

// A cell's number, of statistics the first; NaN if it has none.
function number(text) {
  if (!NUMBER.test(text)) return NaN;
  return text.replace(/^[-+]/, "").startsWith("inf") ? (text[0] === "-" ? -Infinity : Infinity) : parseFloat(text);
}

function compare(one, other, numeric) {
  if (!numeric) return one < other ? -1 : Number(one > other);
  const [a, b] = [number(one), number(other)];
  return a < b ? -1 : Number(a > b);
}

function sort(place) {
  const sign = heads[place].ariaSort === "ascending" ? -1 : 1;
  const numeric = heads[place].classList.contains("number");
  for (const head of heads) head.ariaSort = null;
  heads[place].ariaSort = sign > 0 ? "ascending" : "descending";
  const text = new Map(rows.map((row) => [row, row.cells[place].textContent]));
  const missing = (row) => (numeric ? Number.isNaN(number(text.get(row))) : text.get(row) === "");
  const sorted = [...rows].sort((a, b) => missing(a) - missing(b) || (missing(a) ? 0 : sign * compare(text.get(a), text.get(b), numeric)));
  body.append(...sorted);
}
heads.forEach((head, place) => head.firstElementChild.addEventListener("click", () => sort(place)));

const TESTS = {
  "<": (order) => order < 0, "<=": (order) => order <= 0, ">": (order) => order > 0, ">=": (order) => order >= 0,
  "=": (order) => order === 0, "==": (order) => order === 0, "!=": (order) => order !== 0,
};

// What a word of the filter asks of a row: a condition on a column, or to be in some cell.
function asked(word) {
  const [, name, sign, value] = /^([^<>=!]+)(<=|>=|==|!=|<|>|=)(.+)$/.exec(word) ?? [];
  const exact = names.indexOf(name);
  const place = exact >= 0 ? exact : names.findIndex((known) => known.endsWith(`.${name}`));
  if (place < 0) return (row) => row.textContent.toLowerCase().includes(word.toLowerCase());
  const numeric = heads[place].classList.contains("number");
  return (row) => {
    const text = row.cells[place].textContent;
    return !(numeric && Number.isNaN(number(text))) && TESTS[sign](compare(text, value, numeric));
  };
}

const filter = document.getElementById("filter");
filter.addEventListener("input", () => {
  const tests = filter.value.split(/\s+/).filter(Boolean).map(asked);
  let count = 0;
  for (const row of rows) {
    row.hidden = !tests.every((test) => test(row));
    count += Number(!row.hidden);
  }
  document.getElementById("found").textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
});

"use strict";
// Sorting and filtering of the table of workloads. Without this script the page shows the same numbers.
(() => {
  const table = document.getElementById("overview");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const count = document.getElementById("count");
  const form = document.getElementById("filters");
  const field = (name) => document.getElementById("filter-" + name);

  function filter() {
    const words = field("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = ["model", "kind", "fits"].map((name) => [name, field(name).value]);
    let shown = 0;
    for (const row of rows) {
      const name = row.cells[0].dataset.v.toLowerCase();
      const keep = words.every((word) => name.includes(word)) &&
        chosen.every(([key, value]) => !value || row.dataset[key] === value);
      row.hidden = !keep;
      shown += keep;
    }
    count.textContent = shown === rows.length ? `${shown} workloads` : `${shown} of ${rows.length} workloads`;
  }

  function sort(header) {
    const at = header.cellIndex;
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const isNumber = header.classList.contains("n");
    const key = (row) => isNumber ? Number(row.cells[at].dataset.v) : row.cells[at].dataset.v;
    const keyed = rows.map((row, place) => [key(row), place, row]);
    keyed.sort(([a, i], [b, j]) => {
      const order = isNumber ? a - b : a.localeCompare(b, "en", { numeric: true });
      return (up ? order : -order) || i - j;
    });
    body.append(...keyed.map(([, , row]) => row));
  }

  table.tHead.addEventListener("click", (event) => {
    const header = event.target.closest("th");
    if (header) sort(header);
  });
  for (const kind of ["input", "change"]) form.addEventListener(kind, filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());
  // A section that a link opens takes the focus, so that reading and tabbing go on from there.
  window.addEventListener("hashchange", () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target) target.focus({ preventScroll: true });
  });
  // A browser may keep what was typed before a reload.
  filter();
})();

"use strict";
// Sorting, filtering and comparing of workloads. Without this script the page shows the same numbers.
(() => {
  document.documentElement.classList.add("scripted");
  const table = document.getElementById("overview");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const headers = Array.from(table.tHead.rows[0].cells);
  const count = document.getElementById("count");
  const form = document.getElementById("filters");
  const scatter = document.getElementById("scatter");
  const points = new Map(Array.from(scatter.querySelectorAll("a"), (point) => [point.dataset.w, point]));
  const compare = document.getElementById("compare");
  const open = document.getElementById("compare-open");
  const field = (name) => document.getElementById("filter-" + name);
  const FIELDS = ["text", "model", "kind", "fits"];
  const idOf = (row) => row.cells[0].dataset.v;

  // Conditions on columns: ep=16, gib<40, tp=2..8, fits, !refused. Any other word is looked for in the id.
  const at = new Map(headers.map((cell, place) => [cell.dataset.name, place]));
  const number = (text) => (text === "" ? NaN : Number(text));
  const TESTS = {
    "=": (value, low, high) => value >= low && value <= high,
    "!=": (value, low, high) => value < low || value > high,
    "<": (value, low) => value < low, "<=": (value, low) => value <= low,
    ">": (value, low) => value > low, ">=": (value, low) => value >= low,
  };
  function condition(word) {
    const flag = /^(!?)(fits|refused)$/.exec(word);
    if (flag) return (row) => row.cells[at.get(flag[2])].dataset.v === (flag[1] ? "no" : "yes");
    const parts = /^([a-z_]+)(<=|>=|!=|<|>|=)(.+)$/.exec(word);
    if (!parts || !at.has(parts[1])) return (row) => idOf(row).toLowerCase().includes(word);
    const place = at.get(parts[1]);
    const ends = parts[3].split("..");
    const [low, high] = [number(ends[0]), number(ends[ends.length - 1])];
    if (!headers[place].classList.contains("n") || Number.isNaN(low) || Number.isNaN(high)) {
      const equal = parts[2] !== "!=";
      return (row) => (row.cells[place].dataset.v.toLowerCase() === parts[3]) === equal;
    }
    // A cell shows fewer digits than it sorts by: 40 finds what reads 40.
    const read = (row) => Number(row.cells[place].textContent.replaceAll(",", ""));
    return (row) => TESTS[parts[2]](read(row), low, high);
  }

  function filter() {
    const conditions = field("text").value.toLowerCase().split(/\s+/).filter(Boolean).map(condition);
    const chosen = ["model", "kind", "fits"].map((name) => [name, field(name).value]);
    let shown = 0;
    for (const row of rows) {
      const keep = conditions.every((holds) => holds(row)) &&
        chosen.every(([key, value]) => !value || row.dataset[key] === value);
      row.hidden = !keep;
      points.get(idOf(row)).toggleAttribute("hidden", !keep);
      shown += keep;
    }
    const [some, all] = [shown, rows.length].map((number) => number.toLocaleString("en"));
    count.textContent = shown === rows.length ? `${all} workloads` : `${some} of ${all} workloads`;
    line();
  }

  // The line through the points shown of which none is both cheaper and smaller.
  function line() {
    const places = Array.from(points.values()).filter((point) => !point.hasAttribute("hidden"))
      .map((point) => [Number(point.dataset.x), Number(point.dataset.y)]);
    places.sort(([x, y], [u, v]) => x - u || v - y);
    const best = [];
    for (const place of places) if (!best.length || place[1] > best[best.length - 1][1]) best.push(place);
    scatter.querySelector(".best").setAttribute("d", best.length ? "M" + best.map((p) => p.join(" ")).join("L") : "");
  }

  function sort(header) {
    const place = header.cellIndex;
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of headers) other.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const isNumber = header.classList.contains("n");
    const key = (row) => isNumber ? Number(row.cells[place].dataset.v) : row.cells[place].dataset.v;
    const keyed = rows.map((row, number) => [key(row), number, row]);
    keyed.sort(([a, i], [b, j]) => {
      const order = isNumber ? a - b : a.localeCompare(b, "en", { numeric: true });
      return (up ? order : -order) || i - j;
    });
    body.append(...keyed.map(([, , row]) => row));
  }

  // What is filtered and chosen stands in the address, behind "#?": a fragment works in a file, too.
  const boxes = () => rows.map((row) => row.querySelector("input")).filter((box) => box.checked);
  function remember() {
    const said = new URLSearchParams();
    for (const name of FIELDS) if (field(name).value) said.set(name, field(name).value);
    const chosen = boxes().map((box) => idOf(box.closest("tr")));
    if (chosen.length) said.set("with", chosen.join(" "));
    history.replaceState(null, "", "#" + (String(said) ? "?" + said : "workloads"));
  }
  function recall() {
    if (!location.hash.startsWith("#?")) return;
    const said = new URLSearchParams(location.hash.slice(2));
    for (const name of FIELDS) field(name).value = said.get(name) ?? "";
    const chosen = new Set((said.get("with") ?? "").split(" "));
    for (const row of rows) row.querySelector("input").checked = chosen.has(idOf(row));
    filter();
    choose();
  }

  function choose() {
    open.disabled = boxes().length < 2;
    if (!compare.hidden) fill();
  }
  function cell(tag, text, scope) {
    const made = document.createElement(tag);
    made.textContent = text;
    if (scope) made.scope = scope;
    return made;
  }
  function fill() {
    const chosen = boxes().map((box) => box.closest("tr"));
    compare.hidden = chosen.length < 2;
    if (compare.hidden) return compare.replaceChildren();
    const made = document.createElement("table");
    const top = made.createTHead().insertRow();
    top.append(cell("th", "", "col"), ...chosen.map((row) => cell("th", idOf(row), "col")));
    top.cells[0].textContent = "workload";
    const lines = made.createTBody();
    headers.slice(1).forEach((header, place) => {
      const texts = chosen.map((row) => row.cells[place + 1].textContent);
      const line = lines.insertRow();
      line.className = new Set(texts).size > 1 ? "differs" : "";
      line.append(cell("th", header.textContent.trim(), "row"), ...texts.map((text) => cell("td", text)));
    });
    const scroll = document.createElement("div");
    scroll.className = "scroll";
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "Chosen workloads, scrolls sideways");
    scroll.append(made);
    compare.replaceChildren(cell("h3", "Side by side"), scroll);
  }

  table.tHead.addEventListener("click", (event) => {
    const header = event.target.closest("th");
    if (header) sort(header);
  });
  body.addEventListener("change", () => { choose(); remember(); });
  open.addEventListener("click", () => { compare.hidden = false; fill(); compare.focus(); });
  // A menu that is chosen from by a program, or in an older browser, says "change" alone.
  for (const kind of ["input", "change"]) form.addEventListener(kind, () => { filter(); remember(); });
  form.addEventListener("reset", () => setTimeout(() => { filter(); remember(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("details").addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    const code = button.previousElementSibling;
    getSelection().selectAllChildren(code);
    navigator.clipboard?.writeText(code.textContent).then(() => { button.textContent = "copied"; }, () => {});
  });
  // A page of many workloads keeps their sections as text, which opens sooner: each is built when a link asks for it.
  const kept = Array.from(document.querySelectorAll("#details > noscript"), (each) => [each.dataset.workload, each]);
  const texts = new Map(kept);
  const named = () => decodeURIComponent(location.hash.slice(1));
  function build() {
    const text = texts.get(named());
    if (!text) return;
    texts.delete(named());
    text.outerHTML = text.textContent;
    // The address points at what was there when it changed.
    location.replace(location.hash);
  }
  // A section that a link opens takes the focus, so that reading and tabbing go on from there.
  window.addEventListener("hashchange", () => {
    if (location.hash.startsWith("#?")) return recall();
    build();
    const target = document.getElementById(named());
    if (target) target.focus({ preventScroll: true });
  });
  // A browser may keep what was typed before a reload.
  filter();
  recall();
  build();
})();

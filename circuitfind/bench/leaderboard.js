"use strict";
(() => {
  const numberOf = (cell) => {
    const given = cell.dataset.value;
    const value = given === undefined ? cell.textContent.trim() : given;
    if (value === "" || value === "–" || value === "nan") return null;
    const number = Number(value.replaceAll(",", ""));
    return Number.isNaN(number) ? value : number;
  };

  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  // Rows without a value stay at the end, whichever way the others are sorted; equal rows keep their order.
  const sort = (table, column, sign) => {
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row, place) => ({ row, place, key: numberOf(row.cells[column]) }));
    keyed.sort((a, b) => (a.key === null) - (b.key === null) || (a.key === null ? 0 : sign * compare(a.key, b.key)) || a.place - b.place);
    body.append(...keyed.map((entry) => entry.row));
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        sort(table, column, up ? 1 : -1);
      });
    });
  }

  const form = document.getElementById("filters");
  if (!form) return;  // a page of one setting has nothing to filter
  const said = document.getElementById("shown");
  const selects = [...form.querySelectorAll("select")];
  const fits = (element) => selects.every((select) => !select.value || element.dataset[select.name] === select.value);
  const short = (value) =>
    Math.abs(value) < 1 ? value.toFixed(3) : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));

  const filterMatrix = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    const shown = heads.map((head) => head.dataset.model === undefined || fits(head));
    heads.forEach((head, column) => { head.hidden = !shown[column]; });
    for (const row of table.tBodies[0].rows) {
      const values = [];
      [...row.cells].forEach((cell, column) => {
        cell.hidden = !shown[column];
        if (heads[column].dataset.model !== undefined && shown[column] && numberOf(cell) !== null) values.push(numberOf(cell));
      });
      const mean = row.querySelector(".mean");
      mean.textContent = values.length ? short(values.reduce((sum, value) => sum + value, 0) / values.length) : "–";
    }
    return shown.filter((is, column) => is && heads[column].dataset.model !== undefined).length;
  };

  const apply = () => {
    let settings = 0;
    for (const table of document.querySelectorAll("table.matrix")) {
      const count = filterMatrix(table);
      if (!table.closest("#cost")) settings += count;
    }
    for (const row of document.querySelectorAll("table.filtered tbody tr")) row.hidden = !fits(row);
    said.textContent = `${settings} settings shown in the tables of every setting`;
  };

  form.addEventListener("change", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
})();

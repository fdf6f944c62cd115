"use strict";
(() => {
  const key = (row, column) => {
    const value = row.cells[column].dataset.value;
    return value === "" || isNaN(value) ? value : Number(value);
  };
  const compare = (a, b) => {
    if (a === b) return 0;
    if (a === "") return 1; // what is not known comes last
    if (b === "") return -1;
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      head.querySelector("button").addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((each) => each.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const body = table.tBodies[0];
        const rows = [...body.rows].sort((a, b) => {
          const order = compare(key(a, column), key(b, column));
          return up || key(a, column) === "" || key(b, column) === "" ? order : -order;
        });
        body.append(...rows);
      });
    });
  }
  for (const box of document.querySelectorAll(".series input")) {
    const show = () => {
      for (const each of document.querySelectorAll("[data-series]")) {
        if (each.dataset.series === box.value) each.classList.toggle("hidden", !box.checked);
      }
    };
    box.addEventListener("change", show);
    show(); // a browser may remember boxes from before
  }
  addEventListener("beforeprint", () => {
    for (const each of document.querySelectorAll("details")) each.open = true;
  });
})();

// What a page does when it is touched: tables sort, images enlarge.
"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// --- tables: a click on a heading sorts by it, another one turns the order round; what is missing stays last
function sort(table, column, heading) {
  const down = heading.getAttribute("aria-sort") === "ascending";
  all("th[aria-sort]", table).forEach(other => other.setAttribute("aria-sort", "none"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const text = row => row.cells[column].textContent;
  // The number that a cell begins with, as in "21.95 ± 4.25 (3)", "1,024" and "< 0.001"; NaN where it begins with none.
  const number = row => Number(text(row).replace(/^< /, "").split(" ")[0].replaceAll(",", "") || "none");
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [number(a), number(b)];
    if (isNaN(x) && isNaN(y)) return (down ? -1 : 1) * text(a).localeCompare(text(b), "en", {numeric: true});
    if (isNaN(x) || isNaN(y)) return isNaN(x) ? 1 : -1;
    return (down ? -1 : 1) * (x - y);
  });
  body.append(...rows);
}
all("table.sortable").forEach(table => all("thead th", table).forEach((heading, column) => {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...heading.childNodes);
  heading.append(button);
  heading.setAttribute("aria-sort", "none");
  button.addEventListener("click", () => sort(table, column, heading));
}));

// --- images: one opens with its whole row, so that the same noise is seen through every model
all("table.samples").forEach(table => table.addEventListener("click", event => {
  const button = event.target.closest("button.enlarge");
  if (!button) return;
  const row = button.closest("tr"), names = all("thead th", table).map(cell => cell.textContent);
  const dialog = document.createElement("dialog"), large = document.createElement("div");
  const close = document.createElement("button"), title = document.createElement("strong");
  close.type = "button"; close.className = "close"; close.textContent = "Close";
  close.addEventListener("click", () => dialog.close());
  title.textContent = "Noise " + row.cells[0].textContent;
  large.className = "large";
  [...row.cells].slice(1).forEach((cell, i) => {
    const image = cell.querySelector("img");
    if (!image) return;
    const figure = document.createElement("figure"), caption = document.createElement("figcaption");
    caption.textContent = names[i];
    figure.append(image.cloneNode(), caption);
    large.append(figure);
  });
  dialog.setAttribute("aria-label", title.textContent);
  dialog.append(close, title, large);
  dialog.addEventListener("click", click => { if (click.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => { dialog.remove(); button.focus(); });
  document.body.append(dialog);
  dialog.showModal();
  all("figure", large)[[...row.cells].indexOf(button.closest("td")) - 1]?.scrollIntoView({block: "nearest"});
}));

// What a page does when it is touched: tables sort, images enlarge, a line is copied, a run's page leads back.
"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const made = (tag, text = "", name = "") => {
  const out = document.createElement(tag);
  if (text) out.textContent = text;
  if (name) out.className = name;
  if (tag === "button") out.type = "button";
  return out;
};

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
  const button = made("button");
  button.append(...heading.childNodes);
  heading.append(button);
  heading.setAttribute("aria-sort", "none");
  button.addEventListener("click", () => sort(table, column, heading));
}));

// --- images: one opens with its column, so that the same noise is seen through every model; arrow keys go to the next noise
function column(table, index) {
  return [...table.tBodies[0].rows].filter(row => row.cells[index]?.querySelector("img")).map(row => {
    const figure = made("figure"), ssim = row.cells[index].querySelector("small");
    figure.append(row.cells[index].querySelector("img").cloneNode(),
      made("figcaption", row.cells[0].textContent + (ssim ? `, SSIM ${ssim.textContent}` : "")));
    return figure;
  });
}
function enlarge(table, button) {
  const dialog = made("dialog"), title = made("strong"), large = made("div", "", "large"), heads = table.tHead.rows[0].cells;
  const [back, next, close] = [["‹", "Previous noise"], ["›", "Next noise"], ["Close", "Close"]].map(([text, name]) => {
    const out = made("button", text);
    out.setAttribute("aria-label", name);
    return out;
  });
  let index = button.closest("td").cellIndex;
  const show = step => {
    index = (index - 1 + step + heads.length - 1) % (heads.length - 1) + 1;
    title.textContent = "Noise " + heads[index].textContent;
    dialog.setAttribute("aria-label", title.textContent);
    large.replaceChildren(...column(table, index));
  };
  show(0);
  back.addEventListener("click", () => show(-1));
  next.addEventListener("click", () => show(1));
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", event => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    if (step) { show(step); event.preventDefault(); }
  });
  dialog.addEventListener("click", click => { if (click.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => { dialog.remove(); button.focus(); });
  const bar = made("div", "", "bar");
  bar.append(back, title, next, made("span", "← → next noise, Esc closes", "quiet"), close);
  dialog.append(bar, large);
  document.body.append(dialog);
  dialog.showModal();
}
all("table.samples").forEach(table => table.addEventListener("click", event => {
  const button = event.target.closest("button.enlarge");
  if (button) enlarge(table, button);
}));

// --- lines to copy, where the browser lets a page do that
if (navigator.clipboard) all("pre").forEach(line => {
  const button = made("button", "Copy", "copy"), text = line.textContent;
  button.addEventListener("click", () => navigator.clipboard.writeText(text).then(() => { button.textContent = "Copied"; }));
  line.prepend(button);
});

// --- a comparison tells the page of a run, behind "#from=", where it is
const from = new URLSearchParams(location.hash.slice(1)).get("from");
if (from && !from.includes(":")) {
  const link = made("a", "‹ Comparison");
  link.href = from;
  document.querySelector("h1").before(link);
}

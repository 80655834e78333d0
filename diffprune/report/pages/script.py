"""What a page does when it is touched: tables sort, images enlarge, plotly takes the figures' place."""

# What is touched: tables and images.
TOUCH = r"""
"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// --- tables: a click on a heading sorts by it, another one turns the order round; what is missing stays last
function sort(table, column, heading) {
  const down = heading.getAttribute("aria-sort") === "ascending";
  all("th[aria-sort]", table).forEach(other => other.setAttribute("aria-sort", "none"));
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const key = row => row.cells[column].dataset.value;
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === undefined && y === undefined) {
      return (down ? -1 : 1) * a.cells[column].textContent.localeCompare(b.cells[column].textContent, "en", {numeric: true});
    }
    if (x === undefined || y === undefined) return x === undefined ? 1 : -1;
    return (down ? -1 : 1) * (Number(x) - Number(y));
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

"""

# What moves: plotly draws from the page's data what lies there drawn already.
FIGURES = r"""
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const dark = matchMedia("(prefers-color-scheme: dark)");
const plain = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const MARKS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x"];
const DASHES = ["solid", "dash", "dashdot", "dot"];
function axis(title, extra = {}) {
  return {title: {text: plain(title), standoff: 8}, gridcolor: colour("--grid"), linecolor: colour("--ink"),
    zeroline: false, automargin: true, ticks: "outside", tickcolor: colour("--grid"), ...extra};
}
function layout(shown, extra) {
  return {font: {family: "system-ui, Liberation Sans, sans-serif", size: 12, color: colour("--ink")},
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: {l: 48, r: 12, t: 8, b: 44},
    hovermode: "closest", dragmode: false, showlegend: false,
    hoverlabel: {bgcolor: colour("--panel"), bordercolor: colour("--grid"), font: {color: colour("--ink")}, namelength: 0},
    legend: {orientation: "h", x: 0, y: 1.02, yanchor: "bottom"}, ...extra};
}
const spread = values => values.some(value => value) ? {type: "data", array: values, thickness: 1, width: 3} : undefined;
function curve(chart, series) {
  const dense = series.colour < 0, i = Math.max(0, series.colour);
  const own = dense ? colour("--dense") : colour("--c" + i % 7);
  const said = series.labels.length ? series.labels : series.y.map(value => series.name + ": " + value.toPrecision(4));
  return {type: "scatter", mode: (series.line ? "lines" : "") + (series.marks ? (series.line ? "+" : "") + "markers" : ""),
    name: plain(series.name), x: series.x, y: series.y, text: said.map(plain),
    hovertemplate: "%{text}<br>" + (chart.ticks.length ? plain(chart.y) + ": %{y}" : plain(chart.x) + ": %{x:.4~g}")
      + "<extra></extra>",
    line: {color: own, width: 1.6, dash: dense ? "solid" : DASHES[i % 4], shape: chart.ticks.length ? "hvh" : "linear"},
    marker: {color: own, size: dense ? 13 : 9, symbol: dense ? "star" : MARKS[(i + Math.floor(i / 7)) % 7]},
    error_x: spread(series.x_error), error_y: spread(series.y_error)};
}
function drawChart(place, chart) {
  const stops = chart.stops.map(stop => ({type: "line", x0: stop.x, x1: stop.x, yref: "paper", y0: 0, y1: 1,
    line: {color: colour("--quiet"), width: 1, dash: "dot"}}));
  const spans = chart.spans.map(([x0, x1]) => ({type: "rect", x0, x1, yref: "paper", y0: 0, y1: 1, line: {width: 0},
    fillcolor: colour("--c0"), opacity: 0.15}));
  const names = chart.stops.map((stop, i) => ({x: stop.x, yref: "paper", y: 0.2 * (i % 4), text: plain(stop.name),
    textangle: -90, showarrow: false, xanchor: "right", yanchor: "bottom", font: {size: 10, color: colour("--quiet")}}));
  const ticks = chart.ticks.length ?
    {tickvals: chart.ticks.map(tick => tick[0]), ticktext: chart.ticks.map(tick => plain(tick[1])), tickangle: -90} : {};
  const many = chart.series.length > 1;
  Plotly.react(place, chart.series.map(series => curve(chart, series)), layout(chart, {
    shapes: [...spans, ...stops], annotations: names, showlegend: many && chart.series.length <= 16,
    height: 320 + (chart.series.length <= 16 ? 10 * chart.series.length : 0),
    xaxis: axis(chart.x, ticks),
    yaxis: axis(chart.y, chart.log_y ? {type: "log", dtick: "D2"} : chart.ticks.length ? {rangemode: "tozero"} : {})}),
    {displayModeBar: false, responsive: true});
}
function drawMatrix(place, matrix) {
  const names = matrix.labels.map(plain), low = colour("--paper"), high = colour("--c0");
  const said = value => plain(matrix.unit) + ": " + (value === null ? "–" : value.toFixed(3));
  const cells = matrix.values.map((row, i) => row.map((value, j) => [names[i], names[j], said(value)].join("<br>")));
  const room = names.length <= 10;
  const written = !room ? [] : matrix.values.flatMap((row, i) => row.map((value, j) => ({x: j, y: i, showarrow: false,
    text: value === null ? "–" : value.toFixed(2), font: {size: 11, color: colour("--ink")}})));
  const ticktext = matrix.numbered ? names.map((_, i) => String(i + 1)) : names;
  const ticks = {tickvals: names.map((_, i) => i), ticktext, showgrid: false, ticks: ""};
  Plotly.react(place, [{type: "heatmap", z: matrix.values, text: cells, hoverinfo: "text", zmin: 0, zmax: 1,
    colorscale: [[0, low], [1, mixed(low, high, 0.45)]], showscale: false, xgap: 1, ygap: 1}],
    layout(matrix, {annotations: written, height: 190 + 34 * names.length,
      xaxis: axis("", {...ticks, tickangle: matrix.numbered ? 0 : -45}),
      yaxis: axis("", {...ticks, autorange: "reversed"})}),
    {displayModeBar: false, responsive: true});
}
function mixed(low, high, share) {
  const parts = text => [1, 3, 5].map(i => parseInt(text.slice(i, i + 2), 16));
  const [a, b] = [parts(low), parts(high)];
  return "rgb(" + a.map((value, i) => Math.round(value + share * (b[i] - value))).join(",") + ")";
}
function drawAll(figures) {
  figures.forEach(figure => {
    const place = document.getElementById("plot-" + figure.name);
    if (!place.classList.contains("js-plotly-plot")) place.replaceChildren();
    (figure.kind === "chart" ? drawChart : drawMatrix)(place, figure);
  });
}
const figures = JSON.parse(document.getElementById("figure-data").textContent);
drawAll(figures);
dark.addEventListener("change", () => drawAll(figures));
"""

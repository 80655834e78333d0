"""The style sheet of every page, light and dark, wide and narrow."""

# Near Okabe and Ito's colours, moved apart until with the dense model's grey any two differ to everybody, and each is dark
# (light) enough for a line on its paper; tests/report/test_style.py has the bounds.
PALETTE_LIGHT = ("#377ccc", "#d55e00", "#19734b", "#863c6c", "#5b4400", "#5499ca", "#1d296a")
PALETTE_DARK = ("#56b5ea", "#fc8739", "#17ad73", "#ba82b5", "#f0e442", "#f2cd6c", "#bdccb1")
DENSE_LIGHT, DENSE_DARK = "#7b7b7b", "#a3a3a3"
PAPER_LIGHT, PAPER_DARK = "#ffffff", "#14171c"


def variables(paper: str, dense: str, palette: tuple[str, ...]) -> str:
    return " ".join([f"--paper: {paper}; --dense: {dense};", *(f"--c{i}: {colour};" for i, colour in enumerate(palette))])


CSS = """
:root { color-scheme: light dark; --panel: #f5f6f8; --ink: #1c1f24; --quiet: #5a6270; --grid: #dde0e5;
  --link: #005f96; LIGHT }
@media (prefers-color-scheme: dark) {
  :root { --panel: #1e2229; --ink: #e8eaee; --quiet: #a2aab8; --grid: #363c47;
    --link: #7cc4f0; DARK } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); 
  font: 16px/1.5 system-ui, "Liberation Sans", sans-serif; }
main { max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; overflow-wrap: anywhere; }
p { max-width: 46rem; margin: .5rem 0; }
a { color: var(--link); }
.summary { font-size: 1.05rem; }
.quiet, figcaption { color: var(--quiet); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }
th, td { padding: .35rem .8rem; border-bottom: 1px solid var(--grid); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; font-weight: 500; }
thead th { color: var(--quiet); font-weight: 600; border-bottom: 2px solid var(--grid); vertical-align: bottom; }
tbody th:first-child { position: sticky; left: 0; background: var(--paper); white-space: normal; min-width: 9rem; }
.prose td { text-align: left; white-space: normal; }
.prose th { text-align: left; }
.wide thead th { white-space: normal; min-width: 6rem; }
.wide td:first-child, .wide th:first-child { min-width: 9rem; white-space: normal; overflow-wrap: break-word; }
.figures { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 40rem; }
svg text { font-family: inherit !important; }
.pixels { image-rendering: pixelated; }
pre { background: var(--panel); padding: .75rem 1rem; border-radius: .4rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, "Liberation Mono", monospace; }
.facts { display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); }
.facts td { white-space: normal; overflow-wrap: anywhere; }
.facts table { width: 100%; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--link); }
nav { font-size: .9rem; color: var(--quiet); margin: 1rem 0; display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; text-align: inherit; }
button:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
th[aria-sort] button::after { content: "\\a0⇅"; opacity: .4; font-weight: 400; }
th[aria-sort=ascending] button::after { content: "\\a0▲"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\a0▼"; opacity: 1; }
td b { font-weight: 700; }
figure h3 { margin: 0 0 .25rem; }
figcaption ol { margin: .5rem 0; padding-left: 1.6rem; columns: 2 14rem; }
.plot { min-height: 12rem; }
.plot .js-plotly-plot { width: 100%; }
.samples td, .samples th { padding: 1px; border: 0; text-align: center; }
.samples tbody th:first-child { min-width: 2rem; text-align: right; padding-right: .5rem; color: var(--quiet);
  font-weight: 400; font-size: .85rem; z-index: 1; }
.samples thead th { white-space: normal; font-size: .8rem; font-weight: 500; overflow-wrap: break-word;
  max-width: 4.5rem; vertical-align: bottom;
  padding: 0 .25rem .35rem; border: 0; }
.samples img { display: block; width: 4.5rem; height: auto; }
.samples button { display: block; cursor: zoom-in; }
dialog { border: 1px solid var(--grid); border-radius: .4rem; background: var(--paper); color: var(--ink);
  max-width: min(96vw, 70rem); max-height: 92vh; overflow: auto; padding: 1rem; }
dialog::backdrop { background: rgb(0 0 0 / 60%); }
dialog .large { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: .75rem; }
dialog figure { width: min(calc(50% - .5rem), 15rem); }
dialog img { width: 100%; height: auto; display: block; }
dialog .close { float: right; color: var(--link); }
.commands td:last-child { white-space: normal; overflow-wrap: anywhere; text-align: left; min-width: 20rem;
  font: .8rem/1.4 ui-monospace, "Liberation Mono", monospace; }
@media print { .samples button { cursor: auto; } nav, .modebar { display: none; } }
""".replace("LIGHT", variables(PAPER_LIGHT, DENSE_LIGHT, PALETTE_LIGHT)).replace(
    "DARK", variables(PAPER_DARK, DENSE_DARK, PALETTE_DARK))

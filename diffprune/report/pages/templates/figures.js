// Every figure's Vega-Lite, drawn in the place of its still image. Colours are the page's variables, so they follow its theme.
// Expressions are interpreted (`ast`), because the page's policy forbids to compile them.
all("script.vega-lite").forEach(async data => {
  const still = data.previousElementSibling, drawn = document.createElement("div");
  await vegaEmbed(drawn, JSON.parse(data.textContent), {
    mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false,
    tooltip: {disableDefaultStyle: true}});
  still.replaceChildren(drawn);
  still.classList.add("drawn");
});

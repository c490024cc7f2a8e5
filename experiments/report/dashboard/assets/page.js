"use strict";
// Draws the charts of a page from the data in it. The filters and the x axis only choose what of the curves is shown.

const data = JSON.parse(document.getElementById("data").textContent);
const filters = document.getElementById("filters");
const config = {
  responsive: true,
  displaylogo: false,
  showSendToCloud: false,  // plotly shows a button by default that sends a chart's data to a server of theirs
  plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d"],
};
const grid = {gridcolor: "#e2e2e2", linecolor: "#888", zerolinecolor: "#e2e2e2", automargin: true};
const MARKED_POINTS = 25;  // curves of at most so many points show each of them

function layout(own) {
  const axis = (name) => ({...grid, ...own[name]});
  return {
    margin: {l: 50, r: 12, t: 28, b: 44},
    font: {family: "system-ui, sans-serif", size: 13, color: "#1a1a1a"},
    hovermode: "closest",
    hoverlabel: {namelength: -1},
    modebar: {bgcolor: "transparent", color: "#767676", activecolor: "#1a1a1a"},
    showlegend: false,
    ...own,
    xaxis: axis("xaxis"),
    yaxis: axis("yaxis"),
  };
}

function chosen(name) {
  return new FormData(filters).getAll(name);
}

function curve(run, metric, axis) {
  const x = run.columns[axis];
  const values = run.columns[metric] ?? [];
  const rows = [...values.keys()].filter((row) => values[row] !== null && x[row] !== null);
  return {
    type: "scatter",
    mode: rows.length > MARKED_POINTS ? "lines" : "lines+markers",
    x: rows.map((row) => x[row]),
    y: rows.map((row) => values[row]),
    customdata: rows.map(() => run.place),
    opacity: 0.8,
    line: {color: run.color, width: 1.5, dash: run.tuning ? "dot" : "solid"},
    marker: {color: run.color, symbol: run.symbol, size: 5},
    hovertemplate: `%{y:.5g} at %{x}<br>${run.label}<extra></extra>`,
  };
}

function drawCurves() {
  const optimizers = chosen("optimizer");
  const seeds = chosen("seed");
  const [axis] = chosen("axis");
  const runs = data.runs.filter((run) => optimizers.includes(run.optimizer) && seeds.includes(String(run.seed)));
  for (const [place, metric] of Object.entries(data.panels)) {
    const traces = runs.map((run) => curve(run, metric, axis));
    // The zoom survives a filter, but not another x axis.
    Plotly.react(place, traces, layout({xaxis: {title: {text: data.axes[axis]}}, uirevision: axis}), config);
  }
}

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}

drawCurves();
for (const [place, chart] of Object.entries(data.charts)) {
  Plotly.newPlot(place, chart.data, layout(chart.layout), config);
}
for (const place of [...Object.keys(data.panels), ...Object.keys(data.charts)]) {
  document.getElementById(place).on("plotly_click", ({points: [point]}) => {
    if (point.customdata !== undefined) {
      location.hash = encodeURIComponent(point.customdata);
    }
  });
}
filters.addEventListener("change", drawCurves);
window.addEventListener("hashchange", openTarget);
openTarget();

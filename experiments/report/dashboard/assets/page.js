"use strict";
// Draws the charts of a page from the data embedded in it. Filters, x axis and scale only select which curves to show.

const source = document.getElementById("data").textContent;
const filters = document.getElementById("filters");
const fieldsets = [...filters.querySelectorAll("fieldset[data-key]")];
const dark = matchMedia("(prefers-color-scheme: dark)");
const COLORS = ["--ink", "--quiet", "--line", "--band", "--lost"];  // colours from page.css that charts refer to
const MARKED_POINTS = 25;  // curves with at most this many points mark each of them
const DASHES = {solid: "solid", dash: "dashed", dot: "dotted"};  // plotly's names and those of style sheets
const config = {
  responsive: true,
  displaylogo: false,
  showSendToCloud: false,  // by default, plotly shows a button that sends a chart's data to its own server
  plotlyServerURL: "",
  modeBarButtonsToRemove: ["select2d", "lasso2d"],
};
const onDark = JSON.parse(document.getElementById("data").dataset.onDark);
let data, colors;

function readData() {
  const style = getComputedStyle(document.documentElement);
  colors = Object.fromEntries(COLORS.map((name) => [name, style.getPropertyValue(name).trim()]));
  const shown = {...colors, ...(dark.matches ? onDark : {})};
  data = JSON.parse(source, (_, value) => (typeof value === "string" && Object.hasOwn(shown, value) ? shown[value] : value));
}

function layout(own) {
  const grid = {gridcolor: colors["--line"], linecolor: colors["--quiet"], zerolinecolor: colors["--line"], automargin: true};
  return {
    margin: {l: 50, r: 12, t: 28, b: 44},
    font: {family: "system-ui, sans-serif", size: 13, color: colors["--ink"]},
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    hovermode: "closest",
    hoverlabel: {namelength: -1},
    modebar: {bgcolor: "transparent", color: colors["--quiet"], activecolor: colors["--ink"]},
    showlegend: false,
    ...own,
    xaxis: {...grid, ...own.xaxis},
    yaxis: {...grid, ...own.yaxis},
  };
}

function isChosen(run) {
  return fieldsets.every((fieldset) => {
    const value = run.settings[fieldset.dataset.key];
    const ends = [...fieldset.querySelectorAll("input[type=number]")].map((input) => input.value);
    if (ends.length) {
      const [low, high] = ends;
      return (low === "" || (value !== null && value >= Number(low))) && (high === "" || (value !== null && value <= Number(high)));
    }
    return [...fieldset.querySelectorAll("input:checked")].some((box) => box.value === value);
  });
}

function curve(run, metric, axis, isFaint) {
  const x = run.columns[axis];
  const values = run.columns[metric] ?? [];
  const rows = [...values.keys()].filter((row) => values[row] !== null && x[row] !== null);
  return {
    type: "scatter",
    mode: isFaint || rows.length > MARKED_POINTS ? "lines" : "lines+markers",
    x: rows.map((row) => x[row]),
    y: rows.map((row) => values[row]),
    customdata: rows.map(() => run.place),
    opacity: isFaint ? 0.3 : 0.8,
    line: {color: run.color, width: isFaint ? 1 : 1.5},
    marker: {color: run.color, symbol: run.symbol, size: 5},
    hovertemplate: `%{y:.5g} at %{x}<br>${run.label}<extra></extra>`,
  };
}

// Mean and deviation at the steps where the most runs have a value. Diverged runs are left out: they end early.
function averages(runs, metric, axis) {
  const at = new Map();
  for (const {columns} of runs.filter((run) => !run.diverged)) {
    (columns[metric] ?? []).forEach((value, row) => {
      if (value !== null && columns[axis][row] !== null) {
        at.set(columns.step[row], [...(at.get(columns.step[row]) ?? []), [columns[axis][row], value]]);
      }
    });
  }
  const most = Math.max(...[...at.values()].map((points) => points.length));
  const whole = [...at].filter(([, points]) => points.length === most).sort(([a], [b]) => a - b);
  return whole.map(([, points]) => {
    const average = (column) => points.reduce((sum, point) => sum + point[column], 0) / most;
    const mean = average(1);
    const squares = points.reduce((sum, [, value]) => sum + (value - mean) ** 2, 0);
    return {x: average(0), mean, deviation: most > 1 ? Math.sqrt(squares / (most - 1)) : 0, count: most};
  });
}

function meanAndBand(runs, dash, metric, axis) {
  const points = averages(runs, metric, axis);
  const [{color, kind}] = runs;
  const x = points.map((point) => point.x);
  const edge = (sign) => points.map((point) => point.mean + sign * point.deviation);
  return [
    {
      type: "scatter",
      mode: "lines",
      x: [...x, ...[...x].reverse()],
      y: [...edge(-1), ...edge(1).reverse()],
      fill: "toself",
      fillcolor: `${color}2b`,
      line: {width: 0},
      hoverinfo: "skip",
    },
    {
      type: "scatter",
      mode: "lines+markers",
      x,
      y: points.map((point) => point.mean),
      line: {color, width: 2.5, dash},
      marker: {color, symbol: runs[0].symbol, size: points.length > MARKED_POINTS ? 0 : 6},
      hovertemplate: `%{y:.5g} at %{x}<br>mean of ${points[0]?.count ?? 0}: ${kind}<extra></extra>`,
    },
  ];
}

// A key to the lines, if several share a colour.
function showKinds(groups, dashes) {
  const several = new Set(groups.map(([run]) => run.color)).size < groups.length;
  const items = (several ? groups : []).map(([{color, kind}], number) => {
    const item = document.createElement("span");
    item.innerHTML = kind;  // escaped when the page was written
    item.style.setProperty("--key", `2px ${DASHES[dashes[number]]} ${color}`);
    return item;
  });
  document.getElementById("kinds").replaceChildren(...items);
}

function drawCurves() {
  const form = new FormData(filters);
  const axis = form.get("axis");
  const type = form.has("log") ? "log" : "linear";
  const chosen = data.runs.filter(isChosen);
  const kinds = Object.values(Object.groupBy(chosen, (run) => run.kind));
  const groups = kinds.filter((runs) => runs.length > 1);
  const dashes = groups.map(([{color}], place) => {
    const before = groups.slice(0, place).filter(([run]) => run.color === color).length;
    return Object.keys(DASHES)[before % 3];
  });
  for (const [place, metric] of Object.entries(data.panels)) {
    const traces = [
      ...kinds.flatMap((runs) => runs.map((run) => curve(run, metric, axis, runs.length > 1))),
      ...groups.flatMap((runs, number) => meanAndBand(runs, dashes[number], metric, axis)),
    ];
    // The zoom survives a change of filter, but not of axis.
    const own = {xaxis: {title: {text: data.axes[axis]}}, yaxis: {type}, uirevision: `${axis} ${type}`};
    Plotly.react(place, traces, layout(own), config);
  }
  showKinds(groups, dashes);
  for (const run of data.runs) {
    const row = document.getElementById(run.place);
    if (row.classList.contains("run")) {
      row.hidden = !chosen.includes(run);
    }
  }
}

function drawAll() {
  readData();
  drawCurves();
  for (const [place, chart] of Object.entries(data.charts)) {
    Plotly.react(place, chart.data, layout(chart.layout), config);
  }
}

drawAll();
for (const place of [...Object.keys(data.panels), ...Object.keys(data.charts)]) {
  document.getElementById(place).on("plotly_click", ({points: [point]}) => {
    if (point.customdata !== undefined) {
      location.hash = encodeURIComponent(point.customdata);
    }
  });
}
const tables = new ResizeObserver((changed) => {
  for (const {target} of changed) {
    target.classList.toggle("wide", target.scrollWidth > target.clientWidth);
  }
});
document.querySelectorAll(".table").forEach((table) => tables.observe(table));
filters.addEventListener("change", drawCurves);
dark.addEventListener("change", drawAll);

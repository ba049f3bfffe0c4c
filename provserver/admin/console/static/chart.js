// Bars over time, from data that the page has as JSON; drawn anew when newer data comes, the colours or the width change.

/* global uPlot */

const SERIES = [["granted", "--accent"], ["later", "--warn"], ["refused", "--bad"]];
const charts = new Map();

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Each bar stands on those below it; uPlot draws the first series first, so the highest sum comes first.
function stacked(data) {
  const sums = [];
  const below = new Array(data.times.length).fill(0);
  for (const [name] of SERIES) {
    sums.unshift(data[name].map((count, place) => { below[place] += count; return below[place]; }));
  }
  return [data.times, ...sums];
}

function moment(seconds, step) {
  const text = new Date(seconds * 1000).toISOString();
  return step < 86400 ? `${text.slice(5, 10)} ${text.slice(11, 16)}` : text.slice(0, 10);
}

function told(data, place) {
  if (place == null) return "";
  const counts = `${data.granted[place]} granted, ${data.later[place]} told to come back, ${data.refused[place]} refused`;
  return `${moment(data.times[place], data.step)} to ${moment(data.times[place] + data.step, data.step)} UTC: ${counts}`;
}

function draw(box, data) {
  const at = document.getElementById(`${box.id}-at`);
  const axis = {stroke: colour("--soft"), grid: {stroke: colour("--line"), width: 1}, ticks: {show: false}, font: "12px system-ui"};
  const bars = uPlot.paths.bars({size: [0.8, 40], align: 1});
  const series = SERIES.map(([label, fill]) => (
    {label, fill: colour(fill), stroke: colour(fill), width: 0, paths: bars, points: {show: false}}
  )).reverse();
  const end = data.times.at(-1) + data.step;
  const plot = new uPlot({
    width: box.clientWidth,
    height: box.clientHeight,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    legend: {show: false},
    cursor: {y: false, drag: {setScale: false}},
    scales: {x: {range: () => [data.times[0], end]}, y: {range: (_plot, _low, high) => [0, Math.max(high * 1.05, 4)]}},
    axes: [
      {...axis, values: [
        [86400, "{MM}-{DD}", null, null, null, null, null, null, 1],
        [60, "{HH}:{mm}", "\n{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
      ]},
      {...axis, size: 56, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7]},
    ],
    series: [{}, ...series],
    hooks: {setCursor: [(drawn) => { if (at) at.textContent = told(charts.get(box).data, drawn.cursor.idx); }]},
  }, stacked(data), box);
  return plot;
}

function show(box) {
  const text = document.getElementById(box.dataset.chart)?.textContent ?? "null";
  const known = charts.get(box);
  if (known?.text === text || typeof uPlot === "undefined") return;
  const data = JSON.parse(text);
  if (data === null) return;
  known?.plot.destroy();
  const entry = {text, data};
  charts.set(box, entry);
  entry.plot = draw(box, data);
  widths.observe(box);
}

function showAll() {
  for (const [box, {plot}] of charts) {
    if (box.isConnected) continue;
    plot.destroy();
    widths.unobserve(box);
    charts.delete(box);
  }
  for (const box of document.querySelectorAll("[data-chart]")) show(box);
}

function redraw() {
  for (const entry of charts.values()) entry.text = "";
  showAll();
}

const widths = new ResizeObserver((changes) => {
  for (const {target} of changes) {
    const plot = charts.get(target)?.plot;
    if (plot && plot.width !== target.clientWidth) plot.setSize({width: target.clientWidth, height: target.clientHeight});
  }
});

showAll();
addEventListener("load", showAll);
document.addEventListener("htmx:afterSettle", showAll);
new MutationObserver(redraw).observe(document.documentElement, {attributeFilter: ["data-theme"]});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

// Plot the number of pending and running jobs of the last hour.
import uPlot from "./vendor/uplot/uPlot.esm.js";
import { texts } from "./pages.js";

const container = document.getElementById("plot");
const dark = matchMedia("(prefers-color-scheme: dark)");
let data = JSON.parse(document.getElementById("history").textContent);
let plot;

function draw() {
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = { stroke: color("--muted"), grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line") } };
  const line = (label, name) => ({ label, stroke: color(name), fill: `${color(name)}22`, width: 2, points: { show: false } });
  plot?.destroy();
  container.replaceChildren();
  plot = new uPlot(
    {
      width: container.clientWidth,
      height: 200,
      series: [{}, line(texts.pending, "--warn"), line(texts.running, "--busy")],
      axes: [axis, { ...axis, size: 56 }],
      scales: { x: { range: (_, low, high) => [high - 3600, high] }, y: { range: (_, low, high) => [0, Math.max(4, high * 1.1)] } },
      cursor: { drag: { x: false, y: false } },
    },
    data,
    container,
  );
}

draw();
addEventListener("resize", draw);
dark.addEventListener("change", draw);
document.addEventListener("history", (event) => {
  data = event.detail;
  plot.setData(data);
});

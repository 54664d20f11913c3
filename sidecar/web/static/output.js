// Show a job's output live. Lines are stored as text and only the visible ones are elements of the page, so that a
// hundred megabytes do not block it. The stream resumes after the last line that was read. A long output starts with its
// last lines; the download has all of it.
import { root, say, texts } from "./pages.js";

const KEPT = 200000; // lines
const TAIL = 20000; // lines to start with
const LONGEST = 4096; // characters of a line that are shown
const HEIGHT = 18; // px, as in the stylesheet
const LEVELS = ["FATAL", "FATAL", "FATAL", "ERROR", "WARN", "", "DEBUG", "TRACE"]; // as flux-job(1) prints them
const MARGIN = 20; // lines above and below the visible ones
const DIRECTIONAL = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g; // they would reorder the text of a line

const section = document.getElementById("output");
const box = section.querySelector("[data-lines]");
const status = section.querySelector("[data-status]");
const find = section.querySelector("[data-find]");
const follow = section.querySelector("[data-follow]");
const stderr = section.querySelector("[data-stderr]");
const space = document.createElement("div");
space.className = "space";
box.append(space);

let lines = []; // {number, label, text, error}
let shortened = false;
let shown = lines;
let planned = false;
let ended = "";

function visible(line) {
  return (stderr.checked || !line.error) && (!find.value || line.text.toLowerCase().includes(find.value.toLowerCase()));
}

function escaped(character) {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

function filter() {
  shown = find.value || !stderr.checked ? lines.filter(visible) : lines;
  plan();
}

function plan() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => {
    planned = false;
    draw();
  });
}

function draw() {
  space.style.height = `${shown.length * HEIGHT}px`;
  if (follow.checked) box.scrollTop = box.scrollHeight;
  const first = Math.max(0, Math.floor(box.scrollTop / HEIGHT) - MARGIN);
  const last = Math.min(shown.length, Math.ceil((box.scrollTop + box.clientHeight) / HEIGHT) + MARGIN);
  space.replaceChildren(...shown.slice(first, last).map((line, index) => element(line, first + index)));
  const parts = [];
  if (find.value) parts.push(say("matches", { count: shown.length }));
  if (shortened) parts.push(say("shortened", { lines: Math.min(lines.length, KEPT) }));
  parts.push(ended || (lines.length ? (follow.checked ? texts.followed : texts.paused) : texts.nothing));
  const text = parts.join(" ");
  if (status.textContent !== text) status.textContent = text;
}

function element(line, index) {
  const row = document.createElement("div");
  row.className = `line${line.error ? " stderr" : ""}${line.shell ? " shell" : ""}${find.value ? " found" : ""}`;
  row.style.top = `${index * HEIGHT}px`;
  const number = document.createElement("span");
  number.className = "number";
  number.textContent = line.label;
  row.append(number, ...colored(line.text.length > LONGEST ? `${line.text.slice(0, LONGEST)} …` : line.text));
  return row;
}

// ANSI escape sequences: colors and weights become classes; all others are removed.
function colored(text) {
  const parts = [];
  let classes = new Set();
  // eslint-disable-next-line no-control-regex
  for (const piece of text.split(/(\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\))/)) {
    const codes = /^\x1b\[([0-9;]*)m$/.exec(piece);
    if (codes) {
      for (const code of codes[1].split(";").map(Number)) {
        if (code === 0) classes = new Set();
        else if (code >= 1 && code <= 4) classes.add(`sgr-${code}`);
        else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) {
          classes = new Set([...classes].filter((each) => !/^sgr-3\d$/.test(each)));
          classes.add(`sgr-${code >= 90 ? code - 60 : code}`);
        } else if (code === 39) classes = new Set([...classes].filter((each) => !/^sgr-3\d$/.test(each)));
        else if (code === 22) classes.delete("sgr-1");
      }
    } else if (piece && !piece.startsWith("\x1b")) {
      const span = document.createElement("span");
      span.className = [...classes].join(" ");
      // eslint-disable-next-line no-control-regex
      span.textContent = piece.replace(/[\x00-\x08\x0b-\x1f\x7f]/g, "").replace(DIRECTIONAL, escaped);
      parts.push(span);
    }
  }
  return parts;
}

function addLine(event) {
  const { stream, data } = JSON.parse(event.data);
  add(event, { text: data.replace(/\r?\n$/, ""), error: stream === "stderr" });
}

// Messages of the job's shell are shown whatever streams are selected.
function addLog(event) {
  const { level, rank, component, message } = JSON.parse(event.data);
  const name = rank && rank !== "-1" ? `flux-shell[${rank}]` : "flux-shell";
  const text = [name, LEVELS[level], component, message].filter(Boolean).join(": ");
  for (const part of text.split("\n")) add(event, { text: part, shell: true });
}

function addRedirect(event) {
  const { stream, rank, path } = JSON.parse(event.data);
  add(event, { text: say("redirected", { rank, stream, path: path || "" }), shell: true });
}

function add(event, { text, error, shell }) {
  const id = event.lastEventId; // a number; in a stream that has not started with the first line PLACE-NUMBER
  const number = Number(id.slice(id.indexOf("-") + 1));
  const label = id.includes("-") ? "" : id;
  if (!label) shortened = true;
  const last = lines[lines.length - 1];
  if (last && (number < last.number || (number === last.number && !(shell && last.event === event)))) return; // read before the connection broke
  const line = { number, label, text, error, shell, event: shell ? event : null };
  lines.push(line);
  if (shown !== lines && visible(line)) shown.push(line);
  if (lines.length > KEPT * 1.1) {
    shortened = true;
    const all = shown === lines;
    lines = lines.slice(-KEPT);
    if (all) shown = lines;
    else filter();
  }
  plan();
}

const source = new EventSource(new URL(`v1/jobs/${section.dataset.job}/output/stream?tail=${TAIL}`, root));
source.onmessage = addLine;
source.addEventListener("log", addLog);
source.addEventListener("redirect", addRedirect);
// The browser reconnects by itself, except after an error response, whose status it does not expose.
source.onerror = async () => {
  if (source.readyState !== EventSource.CLOSED || ended) return;
  const response = await fetch(new URL(`v1/jobs/${section.dataset.job}/output?stream=log`, root));
  if (response.status === 410) ended = (await response.json()).detail;
  plan();
};
source.addEventListener("end", (event) => {
  const { reason } = JSON.parse(event.data);
  if (reason === "ended") {
    source.close();
    ended = !lines.length ? texts.nothing_ever : shortened ? texts.ended_here : texts.ended;
  }
  plan();
});

for (const control of [find, follow, stderr]) control.disabled = false;
find.addEventListener("input", filter);
stderr.addEventListener("change", filter);
follow.addEventListener("change", plan);
box.addEventListener("scroll", () => {
  const end = box.scrollTop + box.clientHeight >= box.scrollHeight - HEIGHT;
  if (follow.checked && !end && !ended) follow.checked = false;
  plan();
});
new ResizeObserver(plan).observe(box);
plan();

// Keeps a page up to date: whatever happens to jobs, the page is asked for again and what is live in it is put into
// place. The server alone knows how anything is shown; nothing here makes markup of what a job says.
import { Idiomorph } from "./vendor/idiomorph/idiomorph.esm.js";

export const root = new URL("..", import.meta.url);
export const texts = JSON.parse(document.getElementById("texts").textContent);
export const say = (name, values = {}) => texts[name].replace(/{(\w+)}/g, (_, key) => values[key]);

const PAUSE = 1000; // ms between two looks, however much happens
const QUIET = 15000; // what changes without a job, such as a node
const connection = document.getElementById("connection");
const stopping = () => document.querySelector("[data-stopping]")?.dataset.stopping;

function tell(text) {
  connection.hidden = !text;
  if (connection.textContent !== text) connection.textContent = text;
}

function showTimes(within) {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const when = new Date(time.dateTime);
    time.title = time.dateTime;
    time.textContent = when.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  }
}

let looking = false;
let again = false;
let timer = 0;

export async function refresh() {
  if (looking) {
    again = true;
    return;
  }
  looking = true;
  try {
    // Not a person who asks: a page that was left open must not keep an instance that is not used.
    const answer = await fetch(location.href, { headers: { Accept: "text/html", "Flux-Refresh": "1" } });
    if (answer.status === 401) location.reload();
    if (answer.ok) {
      put(new DOMParser().parseFromString(await answer.text(), "text/html"));
      tell("");
    }
  } catch {
    tell(stopping() ? texts.gone : texts.lost);
  } finally {
    looking = false;
    if (again) {
      again = false;
      later();
    }
  }
}

function put(page) {
  // A server that was started again without its store knows other positions.
  document.documentElement.dataset.position = page.documentElement.dataset.position;
  showTimes(page);
  for (const old of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(old.id);
    if (!fresh || fresh.isEqualNode(old)) continue;
    Idiomorph.morph(old, fresh, {
      ignoreActiveValue: true,
      callbacks: {
        // What a person has typed or chosen is theirs.
        beforeAttributeUpdated: (name, node) => !(["value", "checked"].includes(name) && node.matches?.("input, select, textarea")),
      },
    });
  }
  const history = page.getElementById("history");
  if (history) document.dispatchEvent(new CustomEvent("history", { detail: JSON.parse(history.textContent) }));
  choose();
}

function later(wait = PAUSE) {
  if (!timer) {
    timer = setTimeout(() => {
      timer = 0;
      if (!document.hidden) refresh();
    }, wait);
  }
}

function listen() {
  const job = document.getElementById("output")?.dataset.job;
  // From what the page shows on, so that nothing is missed between the two.
  const all = `v1/events?after=${encodeURIComponent(document.documentElement.dataset.position)}`;
  const events = new EventSource(new URL(job ? `v1/jobs/${job}/events` : all, root));
  events.onmessage = () => later();
  events.addEventListener("end", () => {
    later();
    if (job) events.close();
  });
  events.onopen = () => tell("");
  events.onerror = () => {
    tell(stopping() ? texts.gone : texts.lost);
    if (events.readyState === EventSource.CLOSED && !stopping()) setTimeout(() => refresh().finally(listen), 5000);
  };
}

// ------------------------------------------------------------------------------------------------------- forms

function ask(question, action) {
  const dialog = document.createElement("dialog");
  const text = document.createElement("p");
  const buttons = document.createElement("p");
  const no = document.createElement("button");
  const yes = document.createElement("button");
  text.textContent = question;
  text.id = "question";
  dialog.setAttribute("aria-labelledby", "question");
  no.textContent = "No";
  yes.textContent = "Yes";
  yes.className = "danger";
  buttons.append(no, yes);
  dialog.append(text, buttons);
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  no.addEventListener("click", () => dialog.close());
  yes.addEventListener("click", () => {
    dialog.close();
    action();
  });
  dialog.showModal();
}

const chosen = () => [...document.querySelectorAll("input[name=job]:checked")];

function choose() {
  const button = document.querySelector("[data-chosen]");
  if (button) button.disabled = !chosen().length;
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  const question = form.dataset.confirm;
  if (!question || form.dataset.sure) return;
  event.preventDefault();
  ask(say(question, { count: chosen().length }), () => {
    form.dataset.sure = "yes";
    form.submit();
  });
});

// A stop may be over before another page could be asked for: its answer is put into this one.
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.closest("#stop")) return;
  event.preventDefault();
  const body = new URLSearchParams(new FormData(form));
  const answer = await fetch(form.action, { method: "POST", body, headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (answer.ok) put(page);
  else tell(page.querySelector("main")?.textContent.trim() ?? answer.statusText);
  again = false;
  setInterval(refresh, 500);
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-all]")) {
    for (const box of document.querySelectorAll("input[name=job]")) box.checked = event.target.checked;
  }
  choose();
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  button.textContent = texts.copied;
  setTimeout(() => (button.textContent = texts.copy), 2000);
});

// The address bar holds the view: a filter that changes is another address, and the table follows it.
const filters = document.querySelector("[data-filters]");
if (filters) {
  let typing = 0;
  const view = () => {
    const values = [...new FormData(filters)].filter(([, value]) => value);
    history.replaceState(null, "", `${filters.action}${values.length ? `?${new URLSearchParams(values)}` : ""}`);
    refresh();
  };
  filters.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(view, 250);
  });
  filters.addEventListener("submit", (event) => {
    event.preventDefault();
    view();
  });
}

// A job is checked as it is typed; what only Flux can tell, it tells.
const submit = document.querySelector("[data-check]");
if (submit) {
  const valid = submit.querySelector("[data-valid]");
  let typing = 0;
  let number = 0;
  const check = async () => {
    const mine = ++number;
    const values = [...new FormData(submit)].filter(([, value]) => value.trim());
    if (!values.some(([name]) => name === "command")) return;
    const body = new URLSearchParams([...values, ["dry_run", "true"]]);
    let errors, message;
    try {
      const answer = await fetch(submit.dataset.check, { method: "POST", body });
      ({ Errors: errors = [], Message: message } = await answer.json());
    } catch {
      return;
    }
    if (mine !== number) return; // something was typed since
    const places = new Map([...document.querySelectorAll("[data-error]")].map((each) => [each.dataset.error, []]));
    for (const error of errors) {
      const name = /^([a-z_]+): /.exec(error)?.[1] ?? "";
      (places.get(name) ?? places.get("")).push(error);
    }
    for (const [name, said] of places) {
      document.querySelector(`[data-error="${name}"]`).textContent = said.join(" ");
      const field = name && submit.elements[name];
      if (field) said.length ? field.setAttribute("aria-invalid", "true") : field.removeAttribute("aria-invalid");
    }
    valid.textContent = errors.length ? "" : message;
  };
  submit.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(check, 400);
  });
}

const curl = document.querySelector("[data-curl]");
if (curl) curl.textContent = curl.textContent.replace("… /v1/jobs/submit", new URL(curl.dataset.curl, location.href).href);

showTimes(document);
choose();
if (document.querySelector("[data-live]")) {
  listen();
  setInterval(() => later(0), stopping() !== undefined ? 1000 : QUIET);
  document.addEventListener("visibilitychange", () => later(0));
}

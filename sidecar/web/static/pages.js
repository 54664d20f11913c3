// Update a page: after an event of any job the page is fetched again, and its elements with data-live replace the old
// ones. Only the server renders; no text of a job becomes markup here.
import { Idiomorph } from "./vendor/idiomorph/idiomorph.esm.js";

export const root = new URL("..", import.meta.url);
export const texts = JSON.parse(document.getElementById("texts").textContent);
export const say = (name, values = {}) => texts[name].replace(/{(\w+)}/g, (_, key) => values[key]);

const PAUSE = 1000; // ms between two updates, however many events there are
const QUIET = 15000; // ms between updates without events, for instance for nodes
const connection = document.getElementById("connection");
const stopping = () => document.querySelector("[data-stopping]")?.dataset.stopping;

function showConnection(text) {
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

let refreshing = false;
let again = false;
let timer = 0;

export async function refresh() {
  if (refreshing) {
    again = true;
    return;
  }
  refreshing = true;
  try {
    // Not a request of a user: a page that is left open must not reset --idle-stop.
    const response = await fetch(location.href, { headers: { Accept: "text/html", "Flux-Refresh": "1" } });
    if (response.status === 401) location.reload();
    if (response.ok) {
      replaceLive(new DOMParser().parseFromString(await response.text(), "text/html"));
      showConnection("");
    }
  } catch {
    showConnection(stopping() ? texts.gone : texts.lost);
  } finally {
    refreshing = false;
    if (again) {
      again = false;
      later();
    }
  }
}

function replaceLive(page) {
  // A server that has restarted without its store has other positions.
  document.documentElement.dataset.position = page.documentElement.dataset.position;
  showTimes(page);
  for (const old of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(old.id);
    if (!fresh || fresh.isEqualNode(old)) continue;
    Idiomorph.morph(old, fresh, {
      ignoreActiveValue: true,
      callbacks: {
        // Keep what the user has typed or selected.
        beforeAttributeUpdated: (name, node) => !(["value", "checked"].includes(name) && node.matches?.("input, select, textarea")),
      },
    });
  }
  const history = page.getElementById("history");
  if (history) document.dispatchEvent(new CustomEvent("history", { detail: JSON.parse(history.textContent) }));
  updateSelection();
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
  // From the position of the page, so that no event is missed in between.
  const all = `v1/events?after=${encodeURIComponent(document.documentElement.dataset.position)}`;
  const events = new EventSource(new URL(job ? `v1/jobs/${job}/events` : all, root));
  events.onmessage = () => later();
  events.addEventListener("end", () => {
    later();
    if (job) events.close();
  });
  events.onopen = () => showConnection("");
  events.onerror = () => {
    showConnection(stopping() ? texts.gone : texts.lost);
    if (events.readyState === EventSource.CLOSED && !stopping()) setTimeout(() => refresh().finally(listen), 5000);
  };
}

// ------------------------------------------------------------------------------------------------------- forms

function confirm(question, action) {
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

const selected = () => [...document.querySelectorAll("input[name=job]:checked")];

function updateSelection() {
  const button = document.querySelector("[data-selected]");
  if (button) button.disabled = !selected().length;
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  const question = form.dataset.confirm;
  if (!question || form.dataset.confirmed) return;
  event.preventDefault();
  confirm(say(question, { count: selected().length }), () => {
    form.dataset.confirmed = "yes";
    form.submit();
  });
});

// The server may exit before another page can be fetched, so the response to a stop updates this page.
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.closest("#stop")) return;
  event.preventDefault();
  const body = new URLSearchParams(new FormData(form));
  const response = await fetch(form.action, { method: "POST", body, headers: { Accept: "text/html" } });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  if (response.ok) replaceLive(page);
  else showConnection(page.querySelector("main")?.textContent.trim() ?? response.statusText);
  again = false;
  setInterval(refresh, 500);
});

document.addEventListener("change", (event) => {
  if (event.target.matches("[data-all]")) {
    for (const box of document.querySelectorAll("input[name=job]")) box.checked = event.target.checked;
  }
  updateSelection();
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  button.textContent = texts.copied;
  setTimeout(() => (button.textContent = texts.copy), 2000);
});

// The address holds the view: a changed filter changes the address, and the table is updated.
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

// Check the job while the user types; some checks are done by Flux.
const submit = document.querySelector("[data-check]");
if (submit) {
  const valid = submit.querySelector("[data-valid]");
  let typing = 0;
  let number = 0;
  const check = async () => {
    const current = ++number;
    const values = [...new FormData(submit)].filter(([, value]) => value.trim());
    if (!values.some(([name]) => name === "command")) return;
    const body = new URLSearchParams([...values, ["dry_run", "true"]]);
    let errors, message;
    try {
      const response = await fetch(submit.dataset.check, { method: "POST", body });
      ({ Errors: errors = [], Message: message } = await response.json());
    } catch {
      return;
    }
    if (current !== number) return; // the user has typed since
    const fields = new Map([...document.querySelectorAll("[data-error]")].map((each) => [each.dataset.error, []]));
    for (const error of errors) {
      const name = /^([a-z_]+): /.exec(error)?.[1] ?? "";
      (fields.get(name) ?? fields.get("")).push(error);
    }
    for (const [name, messages] of fields) {
      document.querySelector(`[data-error="${name}"]`).textContent = messages.join(" ");
      const field = name && submit.elements[name];
      if (field) messages.length ? field.setAttribute("aria-invalid", "true") : field.removeAttribute("aria-invalid");
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
updateSelection();
if (document.querySelector("[data-live]")) {
  listen();
  setInterval(() => later(0), stopping() !== undefined ? 1000 : QUIET);
  document.addEventListener("visibilitychange", () => later(0));
}

// Sends a chosen file in pieces, so that neither the browser nor the server holds it whole, then asks the form's page
// to check it. What was typed is in the form all the while.

import { sent } from "./site.js";

const $ = (selector, root = document) => root.querySelector(selector);
const WAITS = [500, 1_000, 2_000, 5_000, 10_000];

class Refused extends Error {} // by the server, in words for people

const form = $("#dataset-form");
const input = $("#dataset-upload");
const progress = $("#file-progress");
let sending = false;

function fail(words) {
  const error = $("#file-error");
  error.textContent = words;
  error.hidden = !words;
  input.setAttribute("aria-invalid", String(Boolean(words)));
}

function tell(done, whole, words) {
  progress.toggleAttribute("data-on", true);
  Object.assign($("progress", progress), { max: whole, value: done });
  $("[data-words]", progress).textContent = words ?? `${(done / 1e6).toFixed(1)} of ${(whole / 1e6).toFixed(1)} MB`;
}

/** What was answered; a page instead of JSON (signed out, a proxy) becomes a sentence. */
async function read(answer) {
  if (answer.status >= 502 && answer.status <= 504) throw new TypeError("away");
  const json = answer.headers.get("content-type")?.startsWith("application/json");
  const told = json ? await answer.json() : { error: answer.redirected ? "You are signed out: sign in and go on." : `The server answered ${answer.status}.` };
  if (!answer.ok && told.received === undefined) throw new Refused(told.error);
  return told;
}

async function post(url, body, headers = {}) {
  return read(await fetch(url, { method: "POST", body, headers: { ...headers, ...sent(form) } }));
}

/** Do it until it holds: a connection that breaks is tried again, a little later each time. */
async function patiently(work) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await work();
    } catch (problem) {
      if (!(problem instanceof TypeError)) throw problem; // fetch has no other name for a broken connection
      $("[data-words]", progress).textContent = "No connection; it goes on by itself.";
      await new Promise((done) => setTimeout(done, WAITS[Math.min(tries, WAITS.length - 1)]));
    }
  }
}

async function send(file) {
  const fields = new FormData();
  fields.set("name", file.name);
  fields.set("size", file.size);
  const begun = await patiently(() => post(form.dataset.begin, fields));
  let received = 0;
  tell(0, file.size);
  while (received < file.size) {
    const piece = file.slice(received, received + Number(form.dataset.piece));
    const told = await patiently(() => post(begun.url, piece, { "X-Offset": String(received) }));
    // Where the file goes on is what the server says: an answer may have been lost on its way.
    if (told.received === received && told.error) throw new Refused(told.error);
    received = told.received;
    tell(received, file.size);
  }
  return begun.file;
}

async function chosen(file) {
  if (sending || !file) return;
  sending = true;
  fail("");
  try {
    $("[name=file]", form).value = await send(file);
    input.value = "";
    tell(1, 1, "All here; it is being checked.");
    sending = false;
    form.requestSubmit($("[value=check]", form));
  } catch (problem) {
    sending = false;
    progress.removeAttribute("data-on");
    input.value = "";
    if (problem instanceof Refused) fail(problem.message);
    else if (problem.name === "NotReadableError" || problem.name === "NotFoundError")
      fail("The file changed or went away while it was read: choose it again.");
    else throw problem;
  }
}

if (form && input) {
  input.addEventListener("change", () => void chosen(input.files[0]));
  const drop = $("[data-drop]", form);
  for (const name of ["dragover", "dragleave", "drop"])
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.toggleAttribute("data-over", name === "dragover");
    });
  drop.addEventListener("drop", (event) => void chosen(event.dataTransfer.files[0]));
  form.addEventListener("submit", (event) => sending && event.preventDefault());
  addEventListener("beforeunload", (event) => sending && event.preventDefault());
}

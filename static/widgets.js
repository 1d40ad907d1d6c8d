// What some conversations have beside messages: pictures at the composer, a rerank's query, text to go on from, and
// vectors to copy. What is typed or attached outlives a reload: pictures lie on the server, the query in this browser.

import { say, toast } from "./site.js";

const $ = (selector, within = document) => within.querySelector(selector);

const chat = $("#chat");
const composer = $("#composer");
const message = $("#message");
const note = $("#composer-note");

function refuse(text) {
  note.textContent = text;
  note.dataset.kind = "bad";
  note.hidden = !text;
}

// --- Pictures -----------------------------------------------------------------------------------------------------

const picker = $("#picture");

/** Whether the model reads pictures; asked each time, since another one may be chosen. */
const sees = () => picker !== null && $(".column-head[data-sees]") !== null;

function attach(files) {
  const pictures = [...files].filter((file) => file.type.startsWith("image/"));
  if (!pictures.length) return false;
  const given = new DataTransfer();
  for (const file of pictures) given.items.add(file);
  picker.files = given.files;
  picker.dispatchEvent(new Event("change"));
  return true;
}

picker?.addEventListener("change", () => {
  if (!picker.files.length) return;
  const most = Number(picker.dataset.most);
  const heavy = [...picker.files].find((file) => file.size > most);
  refuse(heavy ? `${heavy.name} was not attached: it has more than ${most >> 20} MiB.` : "");
  if (heavy) picker.value = "";
  else $("#attach").requestSubmit();
});

$("[data-attach]")?.addEventListener("click", () => picker.click());

message.addEventListener("paste", (event) => {
  if (sees() && attach(event.clipboardData.files)) event.preventDefault();
});

composer.addEventListener("dragover", (event) => {
  if (!sees() || !event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  composer.dataset.dropping = "";
});
composer.addEventListener("dragleave", () => delete composer.dataset.dropping);
composer.addEventListener("drop", (event) => {
  delete composer.dataset.dropping;
  if (!sees() || !event.dataTransfer.files.length) return;
  event.preventDefault();
  if (!attach(event.dataTransfer.files)) refuse("Only pictures can be attached: PNG, JPEG or WebP.");
});

/** The strip came anew: say why something was not taken, or how many there are. */
document.addEventListener("htmx:after:swap", (event) => {
  if (event.detail.ctx.sourceElement?.id !== "attach") return;
  const strip = $("#attached");
  refuse(strip.dataset.why);
  if (!strip.dataset.why) say(`${strip.childElementCount} attached.`);
  message.focus();
});

// The same file may be chosen again, whatever came of it.
$("#attach")?.addEventListener("htmx:finally:request", () => (picker.value = ""));

// A message that went takes its pictures along.
composer.addEventListener("htmx:after:request", (event) => {
  const { ctx } = event.detail;
  if (ctx.sourceElement !== composer || ctx.response.status !== 200) return;
  for (const key of ctx.request.body.getAll("image")) $(`#attached input[value="${key}"]`)?.closest("li").remove();
  forget_query();
});

// --- The query of a rerank ----------------------------------------------------------------------------------------

const query = $("#query");
const KEY = `slipway:query:${chat.dataset.conversation}`;

function keep_query() {
  try {
    localStorage.setItem(KEY, query.value);
  } catch {
    chat.dataset.unkept = ""; // storage is full or forbidden: the text stays in this tab only
  }
}

function forget_query() {
  if (query) localStorage.removeItem(KEY);
}

if (query) {
  query.value = localStorage.getItem(KEY) ?? query.value;
  query.addEventListener("input", keep_query);
}

// --- Going on from a text, copying a vector -----------------------------------------------------------------------

function go_on(button) {
  const turn = button.closest(".turn");
  message.value = $(".said-text", turn).textContent + $(".text[data-kind=content]", button.closest(".answer")).textContent;
  message.dispatchEvent(new Event("input"));
  message.focus();
  message.scrollTop = message.scrollHeight;
}

/** The numbers of a vector as JSON, or null where they could not be had. */
async function numbers(url) {
  try {
    const answer = await fetch(url);
    return answer.ok ? await answer.text() : null;
  } catch {
    return null; // offline: said below
  }
}

async function copy(button) {
  if ("copied" in button.dataset) return;
  button.dataset.copied = "";
  const found = await numbers(button.dataset.copyUrl);
  const label = [...button.childNodes];
  if (found === null) toast("The vector could not be fetched. Try again.", "error");
  else {
    await navigator.clipboard.writeText(found);
    button.textContent = "Copied";
    say("Copied.");
  }
  setTimeout(() => {
    button.replaceChildren(...label);
    delete button.dataset.copied;
  }, found === null ? 0 : 1_500);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-continue], [data-copy-url]");
  if (!button) return;
  if (button.dataset.copyUrl) void copy(button);
  else go_on(button);
});

// Writing a prompt: what is typed is looked at as one types, and kept in this browser until it is saved.

import { say, sent, toast } from "./site.js";

const $ = (selector, within = document) => within.querySelector(selector);
const KEY = (key) => `slipway:draft:prompt:${key}`;
const form = () => $("#prompt-form");

/** What is typed, as [name, text] pairs in order. */
const entries = () => [...new FormData(form())].filter(([name]) => !["csrfmiddlewaretoken", "in_team"].includes(name));

function kept(key) {
  try {
    return JSON.parse(localStorage.getItem(KEY(key)));
  } catch {
    return null; // storage is forbidden, or holds what is none of ours
  }
}

function forget(key) {
  try {
    localStorage.removeItem(KEY(key));
  } catch {
    // storage is forbidden: nothing was kept either
  }
}

let begun = "";

function keep() {
  const typed = JSON.stringify(entries());
  try {
    if (typed === begun) localStorage.removeItem(KEY(form().dataset.key));
    else localStorage.setItem(KEY(form().dataset.key), typed);
  } catch {
    form().dataset.unkept = ""; // storage is full or forbidden: the text stays in this tab only
  }
}

// --- The form anew ------------------------------------------------------------------------------------------------

/** Have the server write the form again with `typed` in it, changed by `verb`. Nothing changes where it cannot. */
async function anew(typed, verb) {
  const body = new URLSearchParams(typed);
  body.set("whole", verb);
  try {
    const answer = await fetch(form().dataset.form, { method: "POST", body, headers: sent(form()) });
    if (!answer.ok || answer.redirected) throw new TypeError(`answered ${answer.status}`);
    const fresh = $("#prompt-form", new DOMParser().parseFromString(await answer.text(), "text/html"));
    form().replaceWith(document.adoptNode(fresh));
    htmx.process(fresh);
    return true;
  } catch (problem) {
    if (!(problem instanceof TypeError)) throw problem;
    toast("Slipway could not be reached, or you are signed out. Nothing was changed.", "error");
    return false;
  }
}

async function recall() {
  const before = kept(form().dataset.key);
  if (!Array.isArray(before) || JSON.stringify(before) === begun) return;
  if (await anew(before, "recall")) say("What you wrote here before is back.");
}

async function act(verb) {
  const done = await anew(entries(), verb);
  if (!done) return;
  keep();
  const texts = [...document.querySelectorAll("[name=content]")];
  const [what, place] = verb.split(" ");
  const at = what === "add" ? texts.length - 1 : Number(place) + { up: -1, down: 1, remove: 0 }[what];
  (texts[Math.min(at, texts.length - 1)] ?? $("[data-whole=add]")).focus();
}

// --- As one types -------------------------------------------------------------------------------------------------

let keeping = 0;
let looking = 0;

function typed(event) {
  if (!event.target.closest("#prompt-form")) return;
  clearTimeout(keeping);
  clearTimeout(looking);
  keeping = setTimeout(keep, 200);
  if (event.target.closest(".prompt-row, #variables"))
    looking = setTimeout(() => $("#look")?.dispatchEvent(new CustomEvent("look")), 350);
}

function clicked(event) {
  const button = event.target.closest("[data-whole], [data-discard]");
  if (!button) return;
  if (button.dataset.whole) return void act(button.dataset.whole);
  forget(form().dataset.key);
  form().dataset.gone = "";
  location.reload();
}

if (form()) {
  begun = JSON.stringify(entries());
  if ("told" in form().dataset) {
    begun = ""; // a conflict, a refusal, or what came from a conversation: typed and not saved
    keep();
  } else void recall();
  document.addEventListener("input", typed);
  document.addEventListener("change", typed);
  document.addEventListener("click", clicked);
  addEventListener("pagehide", () => "gone" in form().dataset || keep());
  const texts = [...document.querySelectorAll("#prompt-form [name=content]")];
  const early = texts.find((text) => text.value !== text.defaultValue); // typed before this script listened
  if (early) typed({ target: early });
}

// --- A prompt's page ----------------------------------------------------------------------------------------------

const page = $("[data-prompt]:not(form)");
const saved = new URLSearchParams(location.search).get("saved");
if (page && saved) {
  forget(saved === "new" ? "new" : page.dataset.prompt);
  history.replaceState(history.state, "", location.pathname);
}

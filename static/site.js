// What every page does: notices to the elements they concern, the finder, copying, confirming, toasts, moving times.

import { look, onNotice, reconnect } from "./socket.js";

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

// --- Keys ---------------------------------------------------------------------------------------------------------

const NO_SHORTCUTS = "slipway:no-shortcuts";

/** Whether this person's browser listens for shortcuts. Kept in it alone; where it keeps nothing they are on. */
export function shortcuts() {
  try {
    return localStorage.getItem(NO_SHORTCUTS) === null;
  } catch {
    return true;
  }
}

export function setShortcuts(on) {
  if (on) localStorage.removeItem(NO_SHORTCUTS);
  else localStorage.setItem(NO_SHORTCUTS, "1");
}

// --- Telling people -----------------------------------------------------------------------------------------------

/** Say a sentence to screen readers. */
export function say(text) {
  const region = $("#status");
  region.textContent = "";
  requestAnimationFrame(() => (region.textContent = text));
}

/** Show a line for a while; errors stay until dismissed. `kind`: "info", "success", "warning", "error". */
export function toast(text, kind = "info") {
  const item = $("#toast").content.firstElementChild.cloneNode(true);
  item.dataset.kind = kind;
  $(".toast-text", item).textContent = text;
  $("#toasts").append(item);
  mindToast(item);
}

function mindToast(item) {
  const close = () => item.remove();
  $("button", item).addEventListener("click", close);
  if (item.dataset.kind === "error") return;
  let timer = setTimeout(close, 6_000);
  for (const type of ["pointerenter", "focusin"]) item.addEventListener(type, () => clearTimeout(timer));
  for (const type of ["pointerleave", "focusout"])
    item.addEventListener(type, () => (timer = setTimeout(close, 3_000)));
}

/** Show what a fragment brought to be told: elements with data-toast, whose value is the kind. */
function tellBrought() {
  for (const brought of $$("[data-toast]")) {
    toast(brought.textContent.trim(), brought.dataset.toast);
    brought.remove();
  }
}

document.addEventListener("htmx:after:swap", tellBrought);

// --- Notices ------------------------------------------------------------------------------------------------------

function announce(topic) {
  const selector = topic === "*" ? "[data-topic]" : `[data-topic~="${CSS.escape(topic)}"]`;
  for (const element of $$(selector)) element.dispatchEvent(new CustomEvent("notice", { detail: topic }));
}

onNotice("*", announce);

/** Ask for everything on screen again, one element after the other: all at once would hold up an answer that streams. */
function look_again() {
  for (const [place, element] of $$("[data-topic]").entries()) {
    setTimeout(() => element.isConnected && element.dispatchEvent(new CustomEvent("notice", { detail: "*" })), 150 * place);
  }
}

// Notices may be lost while Redis is away: what is on screen is asked for again now and then.
setInterval(() => document.hidden || look_again(), 15_000);

// --- Who else is here ---------------------------------------------------------------------------------------------

const present = $("[data-present]");

function show_present(people) {
  const list = document.createElement("ul");
  list.replaceChildren(
    ...people.map(({ name, initials }) => {
      const item = document.createElement("li");
      const short = document.createElement("span");
      const whole = document.createElement("span");
      [item.title, short.textContent, whole.textContent] = [name, initials, name];
      short.ariaHidden = "true";
      whole.className = "visually-hidden";
      item.append(short, whole);
      return item;
    }),
  );
  $("ul", present)?.remove();
  present.append(list);
  present.hidden = !people.length;
}

if (present) look({ [present.dataset.present]: Number(present.dataset.key) }, show_present);

// --- Offline ------------------------------------------------------------------------------------------------------

let offlineTimer = 0;

function showOffline({ detail: state }) {
  clearTimeout(offlineTimer);
  const banner = $("#offline");
  if (state === "open") {
    if (!banner.hidden) say("Connected again.");
    banner.hidden = true;
    return;
  }
  $(".offline-closed", banner).hidden = state === "ended";
  $(".offline-ended", banner).hidden = state !== "ended";
  // A short break heals unseen.
  offlineTimer = setTimeout(() => (banner.hidden = false), state === "ended" ? 0 : 1_500);
}

document.documentElement.addEventListener("socket", showOffline);
$("#offline [data-retry]")?.addEventListener("click", reconnect);

// --- Confirming ---------------------------------------------------------------------------------------------------

/** Ask before what cannot be undone. `asked` carries data-confirm, data-confirm-text and data-confirm-verb. */
export function confirmed(asked) {
  const dialog = $("#confirm");
  $("h2", dialog).textContent = asked.dataset.confirm;
  $("p", dialog).textContent = asked.dataset.confirmText ?? "";
  $("p", dialog).hidden = !asked.dataset.confirmText;
  $("[value=yes]", dialog).textContent = asked.dataset.confirmVerb ?? "Go on";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }),
  );
}

async function onSubmit(event) {
  const form = event.target;
  const asking = event.submitter?.dataset.confirm ? event.submitter : form;
  if (asking.dataset.confirm && !form.dataset.sure) {
    event.preventDefault();
    event.stopImmediatePropagation();
    if (!(await confirmed(asking))) return;
    form.dataset.sure = "yes";
    form.requestSubmit(event.submitter);
    delete form.dataset.sure;
    return;
  }
  if (form.method === "post" && !form.matches("[hx-post]")) holdDoubleClick(event);
}

/** A page that loads after a POST takes the second press of the same button with it. */
function holdDoubleClick(event) {
  const form = event.target;
  if (form.dataset.sent) return event.preventDefault();
  form.dataset.sent = "yes";
  setTimeout(() => delete form.dataset.sent, 5_000);
}

document.addEventListener("submit", onSubmit, true);
addEventListener("pageshow", () => $$("form[data-sent]").forEach((form) => delete form.dataset.sent));

document.addEventListener("htmx:confirm", async (event) => {
  const { ctx, issueRequest, dropRequest } = event.detail;
  if (!ctx.confirm) return;
  event.preventDefault();
  const asked = { dataset: { confirm: ctx.confirm, ...ctx.sourceElement.dataset } };
  (await confirmed(asked)) ? issueRequest() : dropRequest();
});

// --- Requests of scripts ------------------------------------------------------------------------------------------

/** What a script sends of a form beside its body: the token against forgery, and the team its page was of. */
export const sent = (form) => ({
  "X-CSRFToken": $("[name=csrfmiddlewaretoken]", form).value,
  "X-Team": $("[name=in_team]", form).value,
});

// --- Requests that fail -------------------------------------------------------------------------------------------

document.addEventListener("htmx:response:error", ({ detail: { ctx } }) => {
  if (![400, 403, 404, 413].includes(ctx.response.status) && ctx.response.status < 500) return;
  const answer = new DOMParser().parseFromString(ctx.text, "text/html");
  const background = ctx.sourceEvent?.type === "notice" || ctx.sourceEvent?.type === "every";
  if (!background) toast($("[data-reason]", answer)?.textContent.trim() || "That did not work.", "error");
});
document.addEventListener("htmx:error", ({ detail: { ctx } }) => {
  const asked = ctx && !["notice", "every", "input"].includes(ctx.sourceEvent?.type);
  if (asked) toast("Slipway could not be reached. Nothing was changed.", "error");
});

// --- Copying ------------------------------------------------------------------------------------------------------

async function copy(button) {
  const text = button.dataset.copy || $(button.dataset.copyFrom).textContent.trim();
  await navigator.clipboard.writeText(text);
  const label = button.textContent;
  button.textContent = "Copied";
  say("Copied.");
  setTimeout(() => (button.textContent = label), 1_500);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy], [data-copy-from]");
  if (button && button.textContent !== "Copied") copy(button);
});

// --- Ticking ------------------------------------------------------------------------------------------------------

function duration(seconds) {
  if (seconds < 9.95) return `${Math.max(seconds, 0).toFixed(1)} s`;
  const whole = Math.round(seconds);
  for (const [size, unit, smaller, subunit] of [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]]) {
    if (whole < size) continue;
    const rest = Math.floor((whole % size) / smaller);
    return `${Math.floor(whole / size)} ${unit}${rest ? ` ${rest} ${subunit}` : ""}`;
  }
  return `${whole} s`;
}

function ago(seconds) {
  if (seconds < 10) return "just now";
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]])
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit} ago`;
  return `${Math.floor(seconds)} s ago`;
}

// Ages are counted from the server's clock, which the page names, not from this machine's.
const skew = Date.now() - Date.parse(document.documentElement.dataset.now ?? new Date());

function tick() {
  const now = Date.now() - skew;
  for (const [selector, words] of [["time[data-since]", duration], ["time[data-ago]", ago]])
    for (const time of $$(selector)) {
      const text = words((now - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
}

setInterval(() => document.hidden || tick(), 1_000);

// --- Finder -------------------------------------------------------------------------------------------------------

const finder = $("#finder");
let pause = 0;

function openFinder() {
  if (!finder || finder.open) return;
  finder.showModal();
  $("input", finder).select();
  search();
}

/** Ask for what is typed. Not left to a trigger of htmx's: keys work before it has come to a page just opened. */
function search() {
  clearTimeout(pause);
  const input = $("input", finder);
  void htmx.ajax("GET", finder.dataset.url, { source: input, target: "#found", swap: "innerHTML" });
}

/** Move the choice by `step`; the input keeps the focus, as in a combobox. */
function choose(step) {
  const options = $$("[role=option]", finder);
  if (!options.length) return;
  const now = options.findIndex((option) => option.ariaSelected === "true");
  mark(options[(now + step + options.length) % options.length]);
}

function mark(chosen) {
  for (const option of $$("[role=option]", finder)) option.ariaSelected = String(option === chosen);
  const input = $("input", finder);
  if (!chosen) return input.removeAttribute("aria-activedescendant");
  input.setAttribute("aria-activedescendant", chosen.id);
  chosen.scrollIntoView({ block: "nearest" });
}

if (finder) {
  document.addEventListener("keydown", (event) => {
    if (event.key.toLowerCase() !== "k" || !(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey) return;
    if (!shortcuts()) return;
    event.preventDefault();
    openFinder();
  });
  for (const button of $$("[data-finder]")) button.addEventListener("click", openFinder);
  finder.addEventListener("click", (event) => event.target === finder && finder.close());
  finder.addEventListener("htmx:after:swap", () => mark($("[role=option]", finder)));
  $("input", finder).addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(search, 120);
  });
  $("input", finder).addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") choose(1);
    else if (event.key === "ArrowUp") choose(-1);
    else if (event.key === "Enter") location.assign($("[aria-selected=true]", finder)?.dataset.href ?? location.href);
    else return;
    event.preventDefault();
  });
  finder.addEventListener("click", (event) => {
    const option = event.target.closest("[role=option]");
    if (option) location.assign(option.dataset.href);
  });
}

// --- Lists --------------------------------------------------------------------------------------------------------

/** A box that chooses all rows, and buttons that need at least one chosen row. */
function minded(form) {
  const boxes = $$("input[type=checkbox][name=chosen]", form);
  const chosen = boxes.filter((box) => box.checked).length;
  for (const button of $$("[data-needs-chosen]", form)) {
    button.disabled = chosen === 0;
    $("[data-chosen]", button)?.replaceChildren(chosen ? ` ${chosen}` : "");
  }
  const every = $("[data-choose-all]", form);
  if (!every) return;
  every.checked = chosen > 0 && chosen === boxes.length;
  every.indeterminate = chosen > 0 && chosen < boxes.length;
}

document.addEventListener("change", (event) => {
  if (event.target.matches("select[data-submits]")) event.target.form.requestSubmit();
  const form = event.target.closest("form[data-choosing]");
  if (!form) return;
  if (event.target.matches("[data-choose-all]"))
    for (const box of $$("input[name=chosen]:not(:disabled)", form)) box.checked = event.target.checked;
  minded(form);
});

// --- Logs ---------------------------------------------------------------------------------------------------------

/** Whether a log stands at its end: then it stays there as it grows. */
const atEnd = (log) => log.scrollHeight - log.scrollTop - log.clientHeight < 24;
const following = new WeakMap();

document.addEventListener("htmx:before:swap", () => $$("[data-follow]").forEach((log) => following.set(log, atEnd(log))));
document.addEventListener("htmx:after:swap", () => {
  for (const log of $$("[data-follow]")) if (following.get(log) ?? true) log.scrollTop = log.scrollHeight;
  $$("form[data-choosing]").forEach(minded);
});

function poll() {
  if (document.hidden) return;
  for (const part of $$("[data-poll]")) if (part.checkVisibility()) part.dispatchEvent(new CustomEvent("poll"));
}

setInterval(poll, 1_500);
document.addEventListener("toggle", poll, true);

function openNamed() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const details = named?.closest("details");
  if (details && !details.open) {
    details.open = true;
    named.scrollIntoView();
  }
}

addEventListener("hashchange", openNamed);
openNamed();
$$("form[data-choosing]").forEach(minded);
$$("#toasts > *").forEach(mindToast);

// Sends the files of a model in pieces: each checked where it arrives, gone on with after a pause, a reload or a
// broken connection. What the server has is asked before each file; nothing is kept in the browser.

import { sent } from "./site.js";

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const WAITS = [500, 1_000, 2_000, 5_000, 10_000];
const WHOLE = 64 << 20; // up to this size a file's SHA-256 is worked out at once

class Refused extends Error {} // by the server, in words for people
class LeftOut extends Refused {} // this file is none of a model's; the others may go on

const form = $("#upload");
const list = $("#upload-list");
let files = new Map(); // path in the model → File
const leftOut = new Map(); // path → why it stays here
let sending = ""; // the name of what this page is sending
let stopper = new AbortController();

// --- Choosing -----------------------------------------------------------------------------------------------------

/** "top/sub/a.json" of a chosen folder → "sub/a.json", and "top" as a name to begin with. */
function add(chosen) {
  const paths = chosen.map(([path]) => path);
  const top = paths[0]?.split("/")[0];
  const inFolder = paths.every((path) => path.startsWith(`${top}/`));
  for (const [path, file] of chosen) {
    const own = inFolder ? path.slice(top.length + 1) : path;
    if (!own.split("/").some((part) => part.startsWith("."))) files.set(own, file);
  }
  const name = $("[name=name]", form);
  if (!name.value && files.size) name.value = suggested(inFolder ? top : [...files.keys()][0]);
  fail("");
  show();
}

/** A name that a folder may have. */
const suggested = (text) => text.replace(/\.(gguf|safetensors)$/i, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+|[.]+$/g, "").slice(0, 80);

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  add((await Promise.all(entries.map(walk))).flat());
}

/** Every file below a dropped entry, with its path. */
async function walk(entry) {
  if (entry.isFile) return [[entry.fullPath.slice(1), await new Promise((done, fail) => entry.file(done, fail))]];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) return (await Promise.all(found.map(walk))).flat();
    found.push(...some);
  }
}

// --- Showing ------------------------------------------------------------------------------------------------------

function amount(bytes) {
  for (const [size, unit, digits] of [[1e9, "GB", 1], [1e6, "MB", 1], [1e3, "kB", 0]])
    if (bytes >= size) return `${(bytes / size).toFixed(digits)} ${unit}`;
  return `${bytes} B`;
}

function show() {
  list.replaceChildren(...[...files].map(([path, file]) => row(path, file)));
  for (const [path, why] of leftOut) list.append(leftOutRow(path, why));
  $("[data-upload-clear]", form).hidden = Boolean(!(files.size || leftOut.size) || sending);
  $("[data-upload-pause]", form).hidden = !sending;
  $("[data-upload-start]", form).disabled = Boolean(sending);
  markOwn();
}

/** In the list of what is on its way, what this page is sending is not shown twice, nor as broken off. */
function markOwn() {
  for (const one of $$("[data-upload]")) {
    const own = one.dataset.upload === sending;
    one.toggleAttribute("data-here", own);
    const state = $("[data-coming]", one);
    if (state && own) Object.assign(state, { textContent: "uploading" }).dataset.state = "running";
  }
}

function row(path, file) {
  const item = document.createElement("li");
  item.dataset.file = path;
  const name = Object.assign(document.createElement("span"), { className: "mono anywhere", textContent: path });
  const words = Object.assign(document.createElement("span"), { className: "figure", textContent: amount(file.size) });
  words.dataset.words = "";
  const bar = Object.assign(document.createElement("progress"), { max: file.size || 1, value: 0, ariaLabel: path });
  item.append(name, words, bar);
  return item;
}

function leftOutRow(path, why) {
  const item = document.createElement("li");
  item.className = "left-out";
  item.append(Object.assign(document.createElement("span"), { className: "small muted anywhere", textContent: why }));
  item.dataset.leftOut = path;
  return item;
}

/** How far one file is, in this form's list and in the list of what is on its way. */
function tell(name, path, received, words) {
  const here = $$("li", list).filter((item) => item.dataset.file === path);
  const coming = $$("[data-upload]").filter((one) => one.dataset.upload === name);
  const there = coming.flatMap((one) => $$("li", one)).filter((item) => item.dataset.file === path);
  for (const item of [...here, ...there]) {
    $("progress", item).value = received;
    $("[data-words]", item).textContent = words;
  }
}

function fail(words) {
  const error = $("#upload-error");
  error.textContent = words;
  error.hidden = !words;
}

const say = (words) => ($("#upload-said").textContent = words);

// --- Sending ------------------------------------------------------------------------------------------------------

async function start() {
  const name = $("[name=name]", form).value.trim();
  if (sending) return;
  if (!files.size) return fail("Choose the model's files first.");
  if (!name) return fail("Give the model a name.");
  fail("");
  leftOut.clear();
  sending = name;
  stopper = new AbortController();
  show();
  try {
    await beginAll(name);
    for (const [path, file] of files) await send(name, path, file);
    await post(form.dataset.finish, { name });
    say(`${name} has come whole, and is being checked.`);
    files = new Map();
    $("[name=name]", form).value = "";
  } catch (problem) {
    if (problem.name === "AbortError") say("Paused.");
    else if (problem instanceof Refused) fail(problem.message);
    else if (problem.name === "NotReadableError" || problem.name === "NotFoundError")
      fail("A file changed or went away while it was read: choose it again.");
    else throw problem;
  } finally {
    sending = "";
    show();
    refresh();
  }
}

/** Every file is named, with its SHA-256 where that is quick, before the first byte of any goes: what stands
 *  against one is said at once. */
async function beginAll(name) {
  for (const [path, file] of [...files]) {
    try {
      await patiently(path, () => begin(name, path, file));
    } catch (problem) {
      if (!(problem instanceof LeftOut)) throw problem;
      files.delete(path);
      leftOut.set(path, problem.message);
      show();
    }
  }
  refresh();
  if (!files.size) throw new Refused("None of these files belongs to a model.");
}

/** One file, from where the server has it. */
const send = (name, path, file) =>
  patiently(path, async () => {
    const begun = await post(form.dataset.begin, { name, path, size: file.size });
    await checkSame(file, begun, path);
    await pieces(name, path, file, begun);
  });

async function begin(name, path, file) {
  const sha256 = file.size <= WHOLE ? await digest(file) : "";
  return post(form.dataset.begin, { name, path, size: file.size, sha256 });
}

/** Do it until it holds or is paused: a connection that breaks is tried again, a little later each time. */
async function patiently(path, work) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await work();
    } catch (problem) {
      if (!(problem instanceof TypeError)) throw problem; // fetch has no other name for a broken connection
      for (const item of $$("li", list).filter((one) => one.dataset.file === path))
        $("[data-words]", item).textContent = "no connection; trying again";
      say("No connection. It goes on by itself.");
      await pause(WAITS[Math.min(tries, WAITS.length - 1)]);
    }
  }
}

async function pieces(name, path, file, begun) {
  let received = begun.received;
  const began = performance.now();
  const from = received;
  while (received < file.size) {
    const piece = file.slice(received, received + Number(form.dataset.piece));
    received = await sendPiece(begun.url, piece, received);
    const seconds = (performance.now() - began) / 1000;
    const rate = seconds > 1 ? `, ${amount((received - from) / seconds)}/s` : "";
    tell(name, path, received, `${amount(received)} of ${amount(file.size)}${rate}`);
  }
  tell(name, path, file.size, `${amount(file.size)}, all here`);
}

/** Where the file goes on afterwards: what the server says, which may be elsewhere when another tab was first. */
async function sendPiece(url, piece, offset) {
  const headers = { ...sent(form), "X-Offset": String(offset), "X-Sha256": await digest(piece) };
  const answer = await fetch(url, { method: "POST", body: piece, headers, signal: stopper.signal });
  const told = await read(answer);
  if (answer.ok) return told.received;
  if (answer.status === 409 && told.received !== offset) return told.received;
  throw new Refused(answer.status === 404 ? "This upload was removed meanwhile: upload it again." : told.error);
}

/** The last bytes the server has must be this file's, or two files would be mixed. */
async function checkSame(file, begun, path) {
  if (!begun.tail || !crypto.subtle) return;
  const own = await digest(file.slice(begun.received - begun.tail, begun.received));
  if (own !== begun.tail_sha256)
    throw new Refused(`This ${path} is another file than the one that was begun: remove that upload first.`);
}

async function post(url, fields) {
  const body = new FormData();
  for (const [key, value] of Object.entries(fields)) body.set(key, value);
  const answer = await fetch(url, { method: "POST", body, headers: sent(form), signal: stopper.signal });
  const told = await read(answer);
  if (!answer.ok) throw new (told.left_out ? LeftOut : Refused)(told.error);
  return told;
}

/** What was answered; a page instead of JSON (signed out, a proxy) becomes a sentence. */
async function read(answer) {
  if (answer.headers.get("content-type")?.startsWith("application/json")) return answer.json();
  if (answer.status >= 502 && answer.status <= 504) throw new TypeError("away");
  return { error: answer.redirected ? "You are signed out: sign in and go on." : `The server answered ${answer.status}.` };
}

/** SHA-256 in hex; nothing where the page is not served securely. */
async function digest(blob) {
  if (!crypto.subtle) return "";
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Wait, less when the network comes back; AbortError when paused. */
function pause(wait) {
  return new Promise((done, stop) => {
    const go = () => (clearTimeout(timer), removeEventListener("online", go), done());
    const timer = setTimeout(go, wait);
    addEventListener("online", go);
    stopper.signal.addEventListener("abort", () => (clearTimeout(timer), stop(stopper.signal.reason)), { once: true });
  });
}

/** Ask for the list of what is on its way anew. */
function refresh() {
  const coming = $("#coming");
  if (coming) void htmx.ajax("GET", coming.getAttribute("hx-get"), { source: coming, target: "#coming", swap: "outerMorph" });
}

/** An upload that was broken off: its files are asked for again; one that is whole is only checked. */
async function goOn(name) {
  const whole = $$("[data-upload]").some((one) => one.dataset.upload === name && !$("[data-coming]", one));
  $("[name=name]", form).value = name;
  if (!whole) return $("#upload-files").click();
  try {
    await post(form.dataset.finish, { name });
  } catch (problem) {
    if (!(problem instanceof Refused)) throw problem;
    fail(problem.message);
  }
  refresh();
}

if (form && list) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void start();
  });
  for (const input of $$("[data-choose]", form))
    input.addEventListener("change", () => {
      add([...input.files].map((file) => [file.webkitRelativePath || file.name, file]));
      input.value = "";
    });
  const drop = $("[data-drop]", form);
  for (const name of ["dragover", "dragleave", "drop"])
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.toggleAttribute("data-over", name === "dragover");
    });
  drop.addEventListener("drop", (event) => void dropped(event.dataTransfer));
  $("[data-upload-pause]", form).addEventListener("click", () => stopper.abort());
  $("[data-upload-clear]", form).addEventListener("click", () => {
    files = new Map();
    leftOut.clear();
    fail("");
    show();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-go-on]");
    if (button) void goOn(button.dataset.goOn);
  });
  document.addEventListener("htmx:after:swap", markOwn);
  addEventListener("beforeunload", (event) => sending && event.preventDefault());
}

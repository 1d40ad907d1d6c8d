// The conversation page: answers as they stream, the composer and its draft, stopping, following the end, branches.
// The server owns every row and renders every fragment; this file owns what is between two of them.

import * as markdown from "./markdown.js";
import { say, setShortcuts, shortcuts } from "./site.js";
import { follow as follow_answers, stop, watch } from "./socket.js";

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

const chat = $("#chat");
const thread = $("#thread");
const composer = $("#composer");
const message = $("#message");
const note = $("#composer-note");

// --- Answers ------------------------------------------------------------------------------------------------------

const live = new Map(); // generation → Live
const plain = chat.dataset.task === "completion"; // text that is continued is shown as it came

/** The words of an answer as they come. Shown once per animation frame, the first at once. */
class Words {
  constructor(article) {
    this.article = article;
    this.writers = {};
    this.pending = { content: "", reasoning: "" };
    this.frame = 0;
    void markdown.ready();
  }

  append(kind, text) {
    this.pending[kind] += text;
    if (!this.writers[kind]) this.flush();
    else this.frame ||= requestAnimationFrame(() => this.flush());
  }

  /** A fresh writer for one kind of text, in place of what is shown of it. */
  open(kind) {
    const text = $(`.text[data-kind=${kind}]`, this.article);
    const root = plain ? text : markdown.prose(text);
    root.replaceChildren();
    this.writers[kind] = plain ? { write: (more) => root.append(more), end() {} } : markdown.stream(root);
    this.article.dataset.begun = "";
    if (kind === "reasoning") $(".reasoning", this.article).hidden = false;
  }

  flush() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    for (const [kind, text] of Object.entries(this.pending)) {
      if (!text) continue;
      if (!this.writers[kind]) this.open(kind);
      this.pending[kind] = "";
      this.writers[kind].write(text);
    }
    follow();
  }

  leave() {
    cancelAnimationFrame(this.frame);
  }
}

/** One answer while it streams. */
class Live extends Words {
  constructor(article) {
    super(article);
    this.id = Number(article.dataset.generation);
    this.began = performance.now();
    this.clock = setInterval(() => this.tick(), 1_000);
    this.unwatch = watch(this.id, {
      onText: (kind, text) => this.append(kind, text),
      onSnapshot: (kind, text) => this.replace(kind, text),
      onStopping: () => this.stopping(),
      onEnd: (state) => this.end(state),
    });
  }

  replace(kind, text) {
    this.pending[kind] = "";
    this.open(kind);
    this.append(kind, text);
  }

  tick() {
    const seconds = Math.round((performance.now() - this.began) / 1_000);
    const elapsed = $(".elapsed", this.article);
    if (elapsed && seconds >= 3) elapsed.textContent = ` ${seconds} s`;
  }

  stopping() {
    this.article.dataset.stopping = "";
  }

  end(state) {
    this.flush();
    for (const writer of Object.values(this.writers)) writer.end();
    this.leave();
    void settle(this.article, state);
  }

  leave() {
    super.leave();
    clearInterval(this.clock);
    this.unwatch();
    live.delete(this.id);
    mark_live();
  }
}

/** A message on its way, and what comes of its answers before the server's own account of both replaces it. */
class Preview {
  constructor(text, client) {
    this.client = client;
    this.turn = $("#preview").content.firstElementChild.cloneNode(true);
    $(".said-text", this.turn).textContent = text;
    const pattern = $(".answer", this.turn);
    const places = heads().filter(serves).map((head) => [Number(head.dataset.column), head.dataset.place]);
    this.words = new Map(places.map(([column, place]) => [column, this.answer(pattern.cloneNode(true), place)]));
    $(".answers", this.turn).replaceChildren(...[...this.words.values()].map((words) => words.article));
    $("#turns").append(this.turn);
    following = true;
    follow();
  }

  answer(article, place) {
    article.dataset.place = place;
    return new Words(article);
  }

  end() {
    for (const words of this.words.values()) words.leave();
    this.turn.remove();
  }
}

let preview = null;

/** Whether answers show only once all have come, and whose they are once one has voted. */
function blind() {
  return $("#blind [name=on]")?.value === "no";
}

function end_preview() {
  preview?.end();
  preview = null;
}

/** The words of the answer to the message that is on its way are shown there. */
function hear(client, column) {
  const shown = preview;
  const words = client === shown?.client && !blind() ? shown.words.get(column) : null;
  return words ? (kind, text) => shown === preview && words.append(kind, text) : null;
}

const unsettled = new Map(); // article → state, while the server could not be asked

/** Put the server's account of a finished answer (text, figures, what can be done next) in its place. */
async function settle(article, state) {
  await markdown.ready();
  article.dataset.state = state;
  article.removeAttribute("aria-busy");
  unsettled.set(article, state);
  const url = article.dataset.url;
  await htmx.ajax("GET", url, { target: article, swap: "outerHTML settle:0", source: article });
  if (article.isConnected) return;
  unsettled.delete(article);
  const fresh = $(`.answer[data-url="${url}"]`);
  if (fresh?.dataset.sentence) say(fresh.dataset.sentence);
}

document.documentElement.addEventListener("socket", ({ detail }) => {
  if (detail === "open") for (const [article, state] of unsettled) void settle(article, state);
});

function mark_live() {
  const any = live.size > 0;
  $("#stop").hidden = !any;
  chat.toggleAttribute("data-live", any);
}

/** Make what the server sent work: follow what streams, show the rest as Markdown. */
function adopt(root) {
  for (const article of [...(root.matches?.(".answer") ? [root] : []), ...$$(".answer", root)]) {
    const known = live.get(Number(article.dataset.generation));
    if (known && known.article !== article) known.leave();
    if (["pending", "streaming"].includes(article.dataset.state)) {
      if (!live.has(Number(article.dataset.generation)))
        live.set(Number(article.dataset.generation), new Live(article));
    } else if (!plain) for (const text of $$(".text", article)) if (text.textContent) markdown.render(text.textContent, markdown.prose(text));
  }
  for (const [, one] of live) if (!one.article.isConnected) one.leave();
  mark_live();
}

// --- Following the end --------------------------------------------------------------------------------------------

const NEAR_END = 48;
const latest = $("#latest");
let following = true;

function follow() {
  if (following) thread.scrollTop = thread.scrollHeight;
  else latest.hidden = false;
}

function go_to_end() {
  following = true;
  latest.hidden = true;
  follow();
}

thread.addEventListener(
  "scroll",
  () => {
    following = thread.scrollHeight - thread.scrollTop - thread.clientHeight < NEAR_END;
    if (following) latest.hidden = true;
  },
  { passive: true },
);
new ResizeObserver(() => following && follow()).observe(thread);
latest.addEventListener("click", () => {
  go_to_end();
  message.focus({ preventScroll: true });
});

// --- The draft ----------------------------------------------------------------------------------------------------

const KEY = `slipway:draft:${chat.dataset.conversation}`;
let draft = { text: "", client: new_id(), held: false };

/** One id for each message: a message that is sent twice is one. (randomUUID needs a secure page.) */
function new_id() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function keep() {
  draft.text = message.value;
  try {
    if (draft.text || draft.held) localStorage.setItem(KEY, JSON.stringify(draft));
    else localStorage.removeItem(KEY);
  } catch {
    chat.dataset.unkept = ""; // storage is full or forbidden: the text stays in this tab only
  }
}

/** What was typed before a reload, unless the server has it by now. */
function recall() {
  let kept = null;
  try {
    kept = JSON.parse(localStorage.getItem(KEY));
  } catch {
    localStorage.removeItem(KEY);
  }
  if (kept?.text && !$(`.turn[data-client="${CSS.escape(kept.client)}"]`)) {
    draft = kept;
    message.value = kept.text;
  } else keep();
  if (location.search.includes("text=")) {
    keep();
    history.replaceState(history.state, "", location.pathname);
  }
}

function begin_draft() {
  draft = { text: "", client: new_id(), held: false };
}

let keep_timer = 0;
message.addEventListener("input", () => {
  clearTimeout(keep_timer);
  keep_timer = setTimeout(keep, 200);
  tell("");
  fit();
});
addEventListener("pagehide", keep);

/** Browsers without field-sizing get the height by hand. */
function fit() {
  if (CSS.supports("field-sizing", "content")) return;
  message.style.height = "auto";
  message.style.height = `${Math.min(message.scrollHeight + 2, innerHeight * 0.4)}px`;
}

// --- Sending ------------------------------------------------------------------------------------------------------

let sending = false;
let sent_at = -Infinity;

/** A sentence at the composer; `kind`: "", "bad", "wait". */
function tell(text, kind = "") {
  note.textContent = text;
  note.dataset.kind = kind;
  note.hidden = !text;
  if (kind !== "wait") $("#hold").hidden = true;
}

function refuse(text) {
  tell(text, "bad");
  message.focus();
}

function heads() {
  return $$(".column-head");
}

/** Whether a message sent now is for this column. */
function serves({ dataset }) {
  return dataset.state === "ready" || dataset.state === "loading";
}

/** Whether the message can go now; else says why, and may hold it until it can. */
function may_send() {
  const text = message.value;
  if (!text.trim()) {
    if (performance.now() - sent_at > 800) refuse(composer.dataset.empty);
    return false;
  }
  const longest = Number(composer.dataset.longest);
  if (text.length > longest) {
    const [is, most] = [text.length, longest].map((count) => count.toLocaleString("en"));
    refuse(`This message has ${is} characters; ${most} is the most. It is kept here: shorten it, or send it in parts.`);
    return false;
  }
  if (live.size) {
    refuse("Still answering. Stop it with Esc, or wait for its end; what you typed is kept.");
    return false;
  }
  return may_reach();
}

/** Whether a column's model answers, or will once it has loaded. Stopped ones are started first. */
function may_reach() {
  const stopped = heads().filter((head) => head.dataset.state === "stopped" && $("[data-start]", head));
  if (stopped.length) {
    hold(stopped.map((head) => head.dataset.name).join(" and "));
    for (const head of stopped) $("[data-start]", head).click();
    return false;
  }
  if (heads().some(serves)) return true;
  const problem = heads().map((head) => head.dataset.problem).find(Boolean);
  refuse(problem ?? "Choose a model for this conversation first.");
  return false;
}

function hold(name) {
  draft.held = true;
  keep();
  tell(`Starting ${name}; your message goes with it.`, "wait");
  $("#hold").hidden = false;
}

function unhold() {
  draft.held = false;
  keep();
  tell("");
}

/** A held message goes as soon as its model was started, and comes back with a reason when it was not. */
function reconsider() {
  if (!draft.held || sending || heads().some((head) => head.dataset.state === "stopped" && $("[data-start]", head))) return;
  if (heads().some(serves)) composer.requestSubmit();
  else {
    const failed = heads().find((head) => head.dataset.state === "failed");
    if (!failed) return;
    unhold();
    refuse(failed.dataset.problem);
  }
}

$("#hold").addEventListener("click", unhold);

document.addEventListener(
  "submit",
  (event) => {
    if (event.target !== composer) return;
    const early = composer.dataset.htmxPowered === undefined; // the browser would leave the page with it
    if (early) addEventListener("load", () => composer.requestSubmit(), { once: true });
    if (!early && !sending && may_send()) {
      composer.elements.client_id.value = draft.client;
      return;
    }
    event.preventDefault();
    event.stopImmediatePropagation();
  },
  true,
);

composer.addEventListener("htmx:before:request", ({ target }) => {
  if (target !== composer) return;
  sending = true;
  keep();
  composer.setAttribute("aria-busy", "true");
  preview = new Preview(message.value, draft.client);
  if (!draft.held) tell("");
});

composer.addEventListener("htmx:after:request", (event) => {
  const { ctx } = event.detail;
  if (ctx.sourceElement !== composer) return;
  if (ctx.response.status === 200) return confirmed(ctx.request.body.get("text"));
  draft.held = false;
  keep();
  if (ctx.response.headers.get("HX-Retarget")) return tell("", "bad"), (note.hidden = false);
  refuse(WHY[ctx.response.status] ?? `The server answered ${ctx.response.status}. Your message is kept: send it again.`);
});

const WHY = {
  400: "The server refused this message: it is too long. It is kept here: shorten it, or send it in parts.",
  401: "You are signed out. Your message is kept: sign in and send it again.",
  403: "You may not write here. Ask an administrator of the team for the role of member.",
  404: "This conversation is gone. Copy your message before you leave.",
  413: "The server refused this message: it is too long. It is kept here: shorten it, or send it in parts.",
};

composer.addEventListener("htmx:error", (event) => {
  if (event.detail.ctx?.sourceElement !== composer) return;
  draft.held = false;
  keep();
  refuse("Not sent: Slipway could not be reached. Your message is kept: send it again.");
});

composer.addEventListener("htmx:finally:request", ({ target }) => {
  if (target !== composer) return;
  sending = false;
  end_preview();
  composer.removeAttribute("aria-busy");
});

/** The server has it: the composer is free for the next message, and keeps what was typed since. */
function confirmed(text) {
  sent_at = performance.now();
  begin_draft();
  const typed = message.value.replaceAll("\r\n", "\n");
  const gone = (text ?? "").replaceAll("\r\n", "\n");
  message.value = typed.startsWith(gone) ? typed.slice(gone.length) : typed === gone ? "" : typed;
  keep();
  tell("");
  fit();
  unpin();
  following = true;
}

/** The address names a branch only while an older one is looked at. */
function unpin() {
  if (location.search) history.replaceState(history.state, "", location.pathname);
}

// --- Stopping -----------------------------------------------------------------------------------------------------

function stop_all() {
  for (const [generation, one] of live) {
    one.stopping();
    if (document.documentElement.dataset.socket === "open") stop(generation);
    else void htmx.ajax("POST", one.article.dataset.stopUrl, { source: one.article, swap: "none" });
  }
  if (live.size) say("Stopping.");
}

$("#stop").addEventListener("click", () => {
  stop_all();
  message.focus({ preventScroll: true });
});

// --- Keys ---------------------------------------------------------------------------------------------------------

message.addEventListener("keydown", (event) => {
  if (!shortcuts() || event.isComposing || event.keyCode === 229) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    composer.requestSubmit();
  } else if (event.key === "Escape" && live.size && !$("dialog[open], :popover-open")) {
    event.preventDefault();
    stop_all();
  } else if (event.key === "ArrowUp" && !message.value && !event.shiftKey && !live.size) {
    const last = $$("[data-edit]").at(-1);
    if (last) event.preventDefault();
    last?.click();
  }
});

document.addEventListener("keydown", (event) => {
  const form = event.target.closest?.("form.edit, form.title-form");
  if (!form || !shortcuts() || event.isComposing) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    form.requestSubmit();
  } else if (event.key === "Escape") $("[data-cancel]", form).click();
});

const keys = $("#shortcuts");

function show_shortcuts() {
  $(".keys-on").hidden = !shortcuts();
  keys.textContent = shortcuts() ? "Turn shortcuts off" : "Turn shortcuts on";
}

keys.addEventListener("click", () => {
  setShortcuts(!shortcuts());
  show_shortcuts();
});
show_shortcuts();

// --- Columns ------------------------------------------------------------------------------------------------------

const narrow = matchMedia("(max-width: 900px)");
let focused = 0; // the place of the column that is shown alone; 0 for all

/** Show one column alone; on a narrow screen there is always one. */
function focus_on(place) {
  const count = heads().length;
  focused = count < 2 ? 0 : Math.min(place || (narrow.matches ? 1 : 0), count);
  if (focused) chat.dataset.focus = focused;
  else delete chat.dataset.focus;
  for (const button of $$("[data-focus]", $("#column-heads"))) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.focus) === focused));
  }
  show_tabs();
}

/** A tab a column, for screens that have room for one. */
function show_tabs() {
  const tabs = heads().map((head) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.className = "column-tab";
    tab.textContent = `${head.dataset.place} ${head.dataset.short || "no model"}`;
    tab.setAttribute("aria-pressed", String(Number(head.dataset.place) === focused));
    tab.addEventListener("click", () => focus_on(Number(head.dataset.place)));
    return tab;
  });
  $("#column-tabs").replaceChildren(...(tabs.length > 1 ? tabs : []));
}

/** The headings changed: who answers, which there are. */
function arrange() {
  focus_on(focused);
  reconsider();
}

narrow.addEventListener("change", () => focus_on(narrow.matches ? focused : 0));

async function open_dialog(address, id) {
  await htmx.ajax("GET", address, { target: `#${id} > .body`, swap: "innerHTML settle:0" });
  document.getElementById(id).showModal();
}

/** What is under a turn beside its answers: one panel, for whichever of its buttons was pressed last. */
async function toggle_panel(button) {
  const foot = button.closest(".turn-foot");
  const panel = $(".turn-panel", foot);
  const open = button.getAttribute("aria-expanded") !== "true";
  for (const other of $$("[data-panel]", foot)) other.setAttribute("aria-expanded", String(open && other === button));
  panel.hidden = !open;
  if (!open) return;
  const shown = $$(".answer[data-generation]", foot.closest(".turn")).map(({ dataset }) => `answer=${dataset.generation}`);
  await htmx.ajax("GET", `${button.dataset.panel}?${shown.join("&")}`, { target: panel, swap: "innerHTML settle:0" });
  following = false;
  panel.scrollIntoView({ block: "nearest" });
}

// --- Small acts ---------------------------------------------------------------------------------------------------

document.addEventListener("click", (event) => {
  const raw = event.target.closest("[data-raw]");
  if (raw) toggle_raw(raw);
  const request = event.target.closest("[data-request]");
  if (request) toggle_request(request);
  const copy = event.target.closest(".code-copy");
  if (copy) void copy_code(copy);
  const focus = event.target.closest("button[data-focus]");
  if (focus) focus_on(Number(focus.dataset.focus) === focused ? 0 : Number(focus.dataset.focus));
  const own = event.target.closest("[data-own]");
  if (own) void open_dialog(own.dataset.own, "own");
  const share = event.target.closest("[data-share]");
  if (share) void open_dialog(share.dataset.share + location.search, "share");
  const panel = event.target.closest("[data-panel]");
  if (panel) void toggle_panel(panel);
  const opener = event.target.closest("[data-dialog]");
  if (opener) document.getElementById(opener.dataset.dialog).showModal();
  const closer = event.target.closest("dialog [data-close]");
  if (closer) closer.closest("dialog").close();
});

/** The effective request is asked for when it is first opened. */
function toggle_request(button) {
  const panel = $(".request", button.closest(".answer"));
  panel.hidden = !panel.hidden;
  button.setAttribute("aria-expanded", String(!panel.hidden));
  if (!panel.hidden && !panel.childElementCount) button.dispatchEvent(new CustomEvent("open"));
}

function toggle_raw(button) {
  const pressed = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(pressed));
  button.closest(".answer").toggleAttribute("data-shows-raw", pressed);
}

async function copy_code(button) {
  await navigator.clipboard.writeText($("code", button.closest(".code")).textContent);
  button.textContent = "Copied";
  say("Copied.");
  setTimeout(() => (button.textContent = "Copy code"), 1_500);
}

// --- What the server sends ----------------------------------------------------------------------------------------

document.addEventListener("htmx:before:settle", (event) => {
  const came = event.detail.newContent.filter((node) => node.nodeType === Node.ELEMENT_NODE && node.isConnected);
  if (came.some((element) => element.matches(".turn, #turns"))) end_preview();
  for (const element of came) adopt(element);
  for (const element of came) prepare(element);
  if (came.some((element) => element.matches(".turn"))) follow();
  if (came.some((element) => element.matches(".column-head, .column-heads"))) arrange();
  if (came.some((element) => element.matches(".column-heads"))) $("#own").close();
  if (came.some((element) => element.matches("#turns"))) unpin_if_asked(event.detail.task);
});

/** Forms that came: an edit gets the id of the message it will send, a name is chosen whole. */
function prepare(element) {
  if (element.matches("form.edit")) element.elements.client_id.value = new_id();
  const typed = $("[data-select]", element);
  typed?.focus();
  typed?.select();
}

/** Editing and regenerating lead to the newest branch; looking at another one is named in the address. */
function unpin_if_asked({ sourceElement }) {
  if (sourceElement?.matches?.("[hx-post]")) {
    unpin();
    following = true;
  }
  // The old messages leave after this event, and with them the place that was scrolled to.
  const stay = following;
  requestAnimationFrame(() => stay && go_to_end());
}

/** The newest answer this page knows of, shown or not. */
function seen() {
  const known = $$(".answer[data-generation]").map(({ dataset }) => Number(dataset.generation));
  return Math.max(Number($("#turns").dataset.newest), ...known);
}

/** Another tab or a teammate wrote here: bring what is new, unless this page is busy or has it already. */
function look() {
  if (sending || $("form.edit") || document.activeElement?.matches(".comment-form textarea")) return;
  const asked = new URLSearchParams(location.search);
  asked.set("seen", seen());
  asked.set("shape", $("#column-heads").dataset.shape);
  void htmx.ajax("GET", `${chat.dataset.turnsUrl}?${asked}`, { target: "#turns", swap: "outerHTML settle:0" });
}

thread.addEventListener("notice", look);

// Who answered shows, or hides, everywhere at once.
document.addEventListener("blind", () => {
  void htmx.ajax("GET", `${chat.dataset.turnsUrl}${location.search}`, { target: "#turns", swap: "outerHTML settle:0" });
});

follow_answers(Number(chat.dataset.conversation), hear);
recall();
fit();
adopt(document.body);
go_to_end();
arrange();
$("[type=submit]", composer).disabled = false; // Sent before this script listens, a message would have no id.

// Comments below answers: how many each has, panels that open, and what others write while one reads or types.

const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

const source = document.querySelector("#comment-counts");
const open = new Map(); // answer → what is typed in its open panel: a message that comes may replace the answers
let counts = {};

const answer_of = (element) => element.closest(".answer").dataset.generation;
const panel_of = (button) => button.closest(".answer").querySelector(".comments");

function label(button) {
  const n = counts[answer_of(button)]?.n ?? 0;
  button.querySelector(".comments-count").textContent = n ? ` ${n}` : "";
}

async function look() {
  const response = await fetch(source.dataset.url, { headers: { Accept: "application/json" } });
  if (!response.ok) return;
  counts = await response.json();
  $$("[data-comments]").forEach(label);
  for (const button of $$("[data-comments][aria-expanded=true]")) refresh(button);
}

/** The list anew where it changed, unless somebody edits in it; what is typed below it stays. */
function refresh(button) {
  const list = panel_of(button).querySelector(".comments-list");
  const now = counts[answer_of(button)] ?? { n: 0, mark: null };
  const same = now.n ? list?.dataset.mark === now.mark : list?.dataset.count === "0";
  if (!list || same || list.querySelector("form")) return;
  void htmx.ajax("GET", `${button.dataset.comments}?list=1`, { target: list, swap: "outerHTML settle:0" });
}

async function show(button, typed = "") {
  const panel = panel_of(button);
  button.setAttribute("aria-expanded", "true");
  panel.hidden = false;
  open.set(answer_of(button), typed);
  await htmx.ajax("GET", button.dataset.comments, { target: panel, swap: "innerHTML settle:0" });
  const field = panel.querySelector("[data-comment-new]");
  if (field && typed) field.value = typed;
}

function toggle(button) {
  if (button.getAttribute("aria-expanded") !== "true") return void show(button);
  button.setAttribute("aria-expanded", "false");
  panel_of(button).hidden = true;
  open.delete(answer_of(button));
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-comments]");
  if (button) toggle(button);
});

document.addEventListener("input", ({ target }) => {
  if (target.matches("[data-comment-new]")) open.set(answer_of(target), target.value);
});

// Answers that came anew have closed panels: those that were open open again, with what was typed.
document.addEventListener("htmx:after:swap", () => {
  for (const button of $$("[data-comments]")) {
    label(button);
    const answer = answer_of(button);
    if (open.has(answer) && button.getAttribute("aria-expanded") !== "true") void show(button, open.get(answer));
  }
  for (const list of $$(".comments-list")) {
    if (!list.closest(".answer")) continue;
    const typed = list.closest(".comments").querySelector("[data-comment-new]");
    open.set(answer_of(list), typed?.value ?? "");
    counts[answer_of(list)] = { n: Number(list.dataset.count), mark: list.dataset.mark };
    label(list.closest(".answer").querySelector("[data-comments]"));
  }
});

source.addEventListener("notice", () => void look());
void look();

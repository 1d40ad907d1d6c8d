// The Start form's options: finding one, how many of a group are set, and taking back what was set.

const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
const INPUTS = ".options :is(input, select)";
const isSet = (input) => input.value !== "" && input.name !== "extra.value";

// --- Finding ------------------------------------------------------------------------------------------------------

/** Show only options whose name, flag or words hold every word typed; groups with one are open meanwhile. */
function find() {
  const box = $("#find-option");
  if (!box) return;
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  let found = 0;
  for (const group of $$("#options details.options")) {
    const options = $$("[data-option]", group);
    for (const option of options) option.hidden = !words.every((word) => option.dataset.option.includes(word));
    const shown = options.filter((option) => !option.hidden && option.matches(".field")).length;
    found += shown;
    group.hidden = options.every((option) => option.hidden);
    minded(group, words.length > 0);
  }
  const all = $$("#options .field[data-option]").length;
  const text = words.length ? `${found} of ${all} options` : `${all} options`;
  if ($("#found-options").textContent !== text) $("#found-options").textContent = text;
  $("#no-option").hidden = $$("#options details.options").some((group) => !group.hidden);
}

/** Open a group while something is looked for, and leave it afterwards as it was. */
function minded(group, looking) {
  if (looking && group.dataset.was === undefined) group.dataset.was = group.open ? "open" : "";
  if (looking) group.open = true;
  else if (group.dataset.was !== undefined) {
    group.open = group.dataset.was === "open";
    delete group.dataset.was;
  }
}

// What is looked for is no part of the form: neither its preview nor its submission hears of it.
document.addEventListener(
  "input",
  (event) => {
    if (event.target.id !== "find-option") return;
    event.stopPropagation();
    find();
  },
  true,
);
document.addEventListener("change", (event) => event.target.id === "find-option" && event.stopPropagation(), true);

document.addEventListener("keydown", (event) => {
  if (event.target.id !== "find-option") return;
  if (event.key === "Enter") {
    event.preventDefault();
    $$("#options [data-option]:not([hidden]) :is(input, select)").find((input) => !input.disabled && input.checkVisibility())?.focus();
  } else if (event.key === "Escape" && event.target.value) {
    event.preventDefault();
    event.target.value = "";
    find();
  }
});

// --- Counting -----------------------------------------------------------------------------------------------------

function count() {
  for (const group of $$("#options details.options")) {
    const set = $$("input, select", group).filter(isSet).length;
    const badge = $("[data-set]", group);
    badge.hidden = set === 0;
    if (badge.textContent !== `${set} set`) badge.textContent = `${set} set`;
    const row = $("[data-reset-row]", group);
    if (row) row.hidden = set === 0 && !taken.has($("button", row));
  }
}

// --- Taking back --------------------------------------------------------------------------------------------------

// What each button took back last, by its button: pressed again it puts that back.
const taken = new Map();

function reset(button) {
  const inputs = $$("input, select", $(button.dataset.reset)).filter((input) => input.matches(INPUTS) && input.value !== "");
  const kept = taken.get(button);
  forget();
  if (kept) for (const [input, value] of kept.values) input.value = value;
  else {
    taken.set(button, { label: button.textContent, values: inputs.map((input) => [input, input.value]) });
    for (const input of inputs) input.value = "";
    button.textContent = "Undo";
  }
  count();
  $("#start").dispatchEvent(new Event("change", { bubbles: true }));
}

/** Something else was changed: what was taken back stays so. */
function forget() {
  for (const [button, { label }] of taken) button.textContent = label;
  taken.clear();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-reset]");
  if (button) reset(button);
  if (event.target.closest("[data-more-extra]")) another();
});

/** One more empty row of extra arguments. */
function another() {
  const rows = $$("#extra .row.extra");
  const row = rows.at(-1).cloneNode(true);
  for (const [input, what] of [[$("select", row), "Argument"], [$("input", row), "Value of argument"]]) {
    input.value = "";
    input.ariaLabel = `${what} ${rows.length + 1}`;
  }
  rows.at(-1).after(row);
  $("select", row).focus();
}

for (const type of ["input", "change"])
  document.addEventListener(type, (event) => {
    if (!event.target.matches?.(INPUTS)) return;
    forget();
    count();
  });
document.addEventListener("htmx:after:swap", () => {
  find();
  count();
});
find();
count();

// A public page behind a link: answers as Markdown, and what changes asked for again. It asks every second while an
// answer is written and slower otherwise: no socket is held open for people nobody knows, and a link that was taken
// back shows nothing from the next question on.

import * as markdown from "./markdown.js";

const main = document.querySelector("#main");
let timer = 0;

/** Each answer's text as Markdown, beside the text it came from. */
function show() {
  for (const text of document.querySelectorAll("#shared .text[data-kind]:not([data-plain])"))
    if (text.textContent) markdown.render(text.textContent, markdown.prose(text));
}

async function look() {
  const shown = document.querySelector("#shared");
  if (!document.hidden) await refresh(shown);
  const every = Number(document.querySelector("#shared")?.dataset.every);
  if (every) timer = setTimeout(look, every);
}

async function refresh(shown) {
  const address = new URL(shown.dataset.url, location.href);
  address.searchParams.set("seen", shown.dataset.seen);
  try {
    const response = await fetch(address, { credentials: "omit", cache: "no-store" });
    if (response.status === 404) return gone(await response.text());
    if (response.status === 200) replace(shown, await response.text());
  } catch (problem) {
    if (!(problem instanceof TypeError)) throw problem; // the network is away: asked again at the next turn
  }
}

function replace(shown, text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  const open = [...shown.querySelectorAll("details")].map((one) => one.open);
  shown.replaceWith(document.adoptNode(page.querySelector("#shared")));
  document.querySelectorAll("#shared details").forEach((one, at) => (one.open = open[at] ?? one.open));
  show();
}

/** The link ended while the page was open. */
function gone(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  main.replaceChildren(...document.adoptNode(page.querySelector("#main")).children);
  document.querySelector("#status").textContent = main.textContent.trim();
}

document.addEventListener("click", async ({ target }) => {
  if (!target.matches(".code-copy")) return;
  await navigator.clipboard.writeText(target.closest(".code").querySelector("code").textContent);
  target.textContent = "Copied";
  document.querySelector("#status").textContent = "Copied.";
  setTimeout(() => (target.textContent = "Copy code"), 1_500);
});

show();
if (document.querySelector("#shared")) timer = setTimeout(look, Number(document.querySelector("#shared").dataset.every));
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !document.querySelector("#shared")) return;
  clearTimeout(timer);
  void look();
});

// A model's card, as its makers wrote it: hostile until it is clean, and nothing in it is fetched.

import { render } from "./markdown.js";

for (const card of document.querySelectorAll("[data-card]")) render(card.textContent, card);

// The prompt of a conversation: its variables' values, and what it asks in the composer.

const $ = (selector) => document.querySelector(selector);
const place = $("#prompt-place");

if (place) {
  // It stands in the form of the settings, which keeps whatever changes in it: this is kept by itself.
  for (const type of ["input", "change"]) place.addEventListener(type, (event) => event.stopPropagation());
  let asked = $("#prompt-asked").value;
  // What the composer offers follows the variables for as long as nobody wrote there.
  document.addEventListener("htmx:after:swap", () => {
    const now = $("#prompt-asked").value;
    const message = $("#message");
    if (now === asked) return;
    if (message.value === "" || message.value === asked) {
      message.value = now;
      message.dispatchEvent(new Event("input", { bubbles: true }));
    }
    asked = now;
  });
}

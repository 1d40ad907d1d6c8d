// Passkeys: a form marked data-passkey is sent once the browser has made or used one.
// "sign-in" and "join" ask the server what to sign; "use" and "make" find it in the page.

const forms = [...document.querySelectorAll("form[data-passkey]")];
const given = () => JSON.parse(document.getElementById("passkey-data").textContent);

async function asked(address, options) {
  const answer = await fetch(address, { headers: { "X-Requested-With": "XMLHttpRequest" }, ...options });
  const found = await answer.json();
  if (!answer.ok) throw new Wrong(found.wrong ?? {});
  return found;
}

/** What the server found wrong with what was typed, by field. */
class Wrong extends Error {
  constructor(fields) {
    super("wrong");
    this.fields = fields;
  }
}

async function use({ request_options: { publicKey } }) {
  return navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(publicKey) });
}

async function make({ creation_options: { publicKey } }, alone) {
  const kind = alone ? "required" : "discouraged";
  publicKey.authenticatorSelection = { ...publicKey.authenticatorSelection, residentKey: kind };
  publicKey.authenticatorSelection.requireResidentKey = alone;
  if (alone) publicKey.authenticatorSelection.userVerification = "required";
  return navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(publicKey) });
}

const ways = {
  "sign-in": async (form) => use(await asked(form.action)),
  use: async () => use(given()),
  make: async (form) => make(given(), form.elements.passwordless.checked),
  join: async (form) => make(await asked(form.dataset.options, { method: "POST", body: new FormData(form) }), true),
};

async function go(form) {
  tell(form, "");
  try {
    const key = await ways[form.dataset.passkey](form);
    form.elements.credential.value = JSON.stringify(key.toJSON());
    form.submit();
  } catch (problem) {
    delete form.dataset.sent;
    tell(form, problem instanceof Wrong ? problem.fields.username : words(problem));
  }
}

function words(problem) {
  if (problem.name === "NotAllowedError") return "No passkey was used. Try again.";
  if (problem.name === "InvalidStateError") return "This device has a passkey for the account already.";
  if (problem instanceof TypeError) return "This browser is too old for passkeys, or the site cannot be reached.";
  return problem.message;
}

function tell(form, text) {
  const place = form.querySelector("[role=alert]") ?? form.querySelector("#username-error");
  place.textContent = text;
  place.hidden = !text;
  if (form.elements.username?.type === "text") form.elements.username.toggleAttribute("aria-invalid", Boolean(text));
}

for (const form of forms) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.passkey === "join" && event.submitter?.value !== "passkey") return;
    event.preventDefault();
    go(form);
  });
}

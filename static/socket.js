// The one WebSocket of a page: answers being streamed, and notices that something changed.
// It reconnects by itself, says what it has already seen, and never closes on a hidden tab.

const watched = new Map(); // generation → what it has seen, whether it asked again, and whom to tell
const EARLY = 16; // answers kept at most that came before the page could show them
const stops = new Set(); // asked while the socket was closed
const listeners = new Map(); // topic → functions; "*" hears every topic
const page = document.documentElement;

let looked = null; // what this page shows, {conversation: 5}, and who hears who else looks at it
let followed = 0; // the conversation whose answers come by themselves
let on_begin = null; // who may show an answer before `watch` asks for it
let socket = null;
let attempt = 0;
let timer = 0;
let opened = false;
let ended = false; // signed out: nothing to come back to
let greeted = false; // whether the open socket was let in

/** Have the answers of a conversation sent from their first word, before `watch` asks for them.
 * `begin(client, column)`, the message's id and who answers, returns a function that hears each piece (kind, text) that comes early, or nothing. */
export function follow(conversation, begin) {
  followed = conversation;
  on_begin = begin;
  send({ type: "follow", conversation });
}

/** Say what this page shows, {conversation: 5}; `on_present(people)` hears who else looks at it: [{name, initials}, …]. */
export function look(what, on_present) {
  looked = { what, on_present };
  send({ type: "look", ...what });
}

/** Follow a generation from what the page already shows. Returns a function that ends it. */
export function watch(generation, { content = 0, reasoning = 0, onText, onSnapshot, onStopping, onEnd }) {
  const early = watched.get(generation)?.early;
  watched.set(generation, { content, reasoning, asked: false, onText, onSnapshot, onStopping, onEnd });
  if (early) queueMicrotask(() => early.forEach(receive)); // once whoever watches is ready to hear
  else ask(generation);
  return () => {
    if (watched.delete(generation)) send({ type: "unwatch", generation });
  };
}

/** Ask the engine to stop; kept until the socket is open again. */
export function stop(generation) {
  if (!send({ type: "stop", generation })) stops.add(generation);
}

/** Call `fn(topic)` whenever `topic` ("*": any) is announced, and after each reconnect. Returns a function that ends it. */
export function onNotice(topic, fn) {
  if (!listeners.has(topic)) listeners.set(topic, new Set());
  listeners.get(topic).add(fn);
  return () => listeners.get(topic)?.delete(fn);
}

/** Try again now, without waiting for the next turn. */
export function reconnect() {
  clearTimeout(timer);
  attempt = 0;
  if (socket?.readyState === WebSocket.OPEN) mark("open");
  else if (!ended && (!socket || socket.readyState > WebSocket.OPEN)) connect();
}

function send(message) {
  if (socket?.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(message));
  return true;
}

function ask(generation) {
  const seen = watched.get(generation);
  if (!seen) return;
  seen.asked = true;
  send({ type: "watch", generation, content: seen.content, reasoning: seen.reasoning });
}

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/`);
  const mine = socket;
  mine.addEventListener("open", () => mine === socket && onOpen());
  mine.addEventListener("message", (event) => mine === socket && receive(JSON.parse(event.data)));
  mine.addEventListener("close", (event) => mine === socket && onClose(event.code));
}

function onOpen() {
  attempt = 0;
  greeted = false;
  mark("open");
  if (followed) follow(followed, on_begin);
  if (looked) send({ type: "look", ...looked.what });
  for (const [generation, { early }] of watched) early ? watched.delete(generation) : ask(generation);
  for (const generation of stops) send({ type: "stop", generation });
  stops.clear();
  if (opened) for (const topic of listeners.keys()) announce(topic);
  opened = true;
}

function onClose(code) {
  socket = null;
  looked?.on_present([]);
  // Signing in anew or a new password ends the session this socket was opened with: whether there is another
  // one, the next socket tells at once.
  ended = code === 4401 && !greeted;
  mark(ended ? "ended" : "closed");
  if (ended) return;
  // Half of the wait is by chance, so that a restarted server is not met by every tab at once.
  const wait = Math.min(15_000, 400 * 2 ** attempt) * (0.5 + Math.random() / 2);
  attempt += 1;
  timer = setTimeout(connect, wait);
}

function mark(state) {
  page.dataset.socket = state;
  page.dispatchEvent(new CustomEvent("socket", { detail: state }));
}

function announce(topic) {
  for (const name of new Set([topic, "*"])) for (const fn of listeners.get(name) ?? []) fn(topic);
}

function receive(message) {
  if (message.type === "notice") return announce(message.topic);
  if (message.type === "begin") return expect(message);
  if (message.type === "hello") greeted = true;
  if (message.type === "present") return looked?.on_present(message.people);
  const seen = watched.get(message.generation);
  if (!seen) return;
  if (seen.early) {
    seen.early.push(message);
    if (message.type === "text") seen.peek?.(message.kind, message.text);
  } else if (message.type === "text") onFrame(seen, message);
  else if (message.type === "snapshot") {
    seen[message.kind] = message.to;
    seen.asked = false;
    seen.onSnapshot?.(message.kind, message.text);
  } else if (message.type === "stopping") seen.onStopping?.();
  else if (message.type === "end") {
    watched.delete(message.generation);
    seen.onEnd?.(message.state);
  }
}

/** An answer begins that the page cannot show yet: keep what comes. */
function expect({ generation, client, column }) {
  if (watched.has(generation)) return;
  watched.set(generation, { content: 0, reasoning: 0, asked: false, early: [], peek: on_begin?.(client, column) });
  const early = [...watched].filter(([, seen]) => seen.early);
  if (early.length > EARLY) watched.delete(early[0][0]);
}

/** Offsets are the server's units: they are only compared. A gap is asked for again, once; what was seen is dropped. */
function onFrame(seen, { generation, kind, from, to, text }) {
  if (from === seen[kind]) {
    seen[kind] = to;
    seen.asked = false;
    seen.onText?.(kind, text);
  } else if (from > seen[kind] && !seen.asked) ask(generation);
}

/** A laptop that slept wakes to a socket that looks open and is dead: a clock that jumped gives it away. */
function mindSleep() {
  let last = Date.now();
  setInterval(() => {
    const slept = Date.now() - last > 150_000; // hidden tabs are called once a minute
    last = Date.now();
    if (!slept) return;
    const dead = socket;
    socket = null;
    dead?.close();
    reconnect();
  }, 5_000);
}

if (page.dataset.socket !== undefined) {
  connect();
  mindSleep();
  addEventListener("online", reconnect);
  addEventListener("offline", () => mark("closed"));
  document.addEventListener("visibilitychange", () => document.hidden || reconnect());
}

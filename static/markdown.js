// Model output as a page shows it. Everything a model writes is hostile: no element, attribute, address or script of
// its choosing reaches the page, and nothing it names is fetched.
//
// While an answer streams, `stream` appends to what is there: its cost is linear. When it is complete, `render` parses
// it once more with a full Markdown parser, cleans the result, and colours code and sets maths, whose libraries load
// only when there is some.

import * as smd from "/static/npm/streaming-markdown/smd.min.js";

const NPM = "/static/npm";
const HIGHLIGHT = `${NPM}/@highlightjs/cdn-assets/es`;
const LONGEST_COLOURED = 100_000;
const HEADINGS_FROM = 2; // the page's name is the first level

/** `href` when it is an address a person may be sent to; else nothing. */
function safe(href) {
  return /^(https?:\/\/|mailto:)/i.test(href) && URL.canParse(href) ? href : "";
}

function point(link, href) {
  link.href = href;
  link.target = "_blank";
  link.rel = "noopener noreferrer nofollow";
}

// ---- while it streams ----------------------------------------------------------------------------------------------

const ELEMENTS = {
  [smd.BLOCKQUOTE]: "blockquote",
  [smd.PARAGRAPH]: "p",
  [smd.LINE_BREAK]: "br",
  [smd.RULE]: "hr",
  [smd.ITALIC_AST]: "em",
  [smd.ITALIC_UND]: "em",
  [smd.STRONG_AST]: "strong",
  [smd.STRONG_UND]: "strong",
  [smd.STRIKE]: "s",
  [smd.CODE_INLINE]: "code",
  [smd.RAW_URL]: "a",
  [smd.LINK]: "a",
  [smd.IMAGE]: "a",
  [smd.LIST_UNORDERED]: "ul",
  [smd.LIST_ORDERED]: "ol",
  [smd.LIST_ITEM]: "li",
  [smd.TABLE]: "table",
  [smd.EQUATION_BLOCK]: "code",
  [smd.EQUATION_INLINE]: "code",
};

const LEVELS = [smd.HEADING_1, smd.HEADING_2, smd.HEADING_3, smd.HEADING_4, smd.HEADING_5, smd.HEADING_6];

function heading(level) {
  return `h${Math.min(6, level + HEADINGS_FROM - 1)}`;
}

function open(data, token) {
  let parent = data.nodes.at(-1);
  let slot;
  const level = LEVELS.indexOf(token) + 1;
  if (level) slot = document.createElement(heading(level));
  else if (token === smd.CODE_FENCE || token === smd.CODE_BLOCK) {
    parent = parent.appendChild(document.createElement("pre"));
    parent.tabIndex = 0;
    slot = document.createElement("code");
  } else if (token === smd.CHECKBOX) {
    slot = document.createElement("input");
    slot.type = "checkbox";
    slot.disabled = true;
  } else if (token === smd.TABLE_ROW) {
    const part = ["thead", "tbody"][Math.min(1, parent.children.length)];
    parent = parent.querySelector(`:scope > ${part}`) ?? parent.appendChild(document.createElement(part));
    slot = document.createElement("tr");
  } else if (token === smd.TABLE_CELL) {
    slot = document.createElement(parent.parentElement?.tagName === "THEAD" ? "th" : "td");
  } else slot = document.createElement(ELEMENTS[token] ?? "span");
  data.nodes.push(parent.appendChild(slot));
}

function close(data) {
  if (data.nodes.length > 1) data.nodes.pop();
}

function add(data, text) {
  data.nodes.at(-1).append(text);
}

/** Only these three attributes are ever set; a link needs a safe address, and an image becomes a link to it. */
function set(data, attribute, value) {
  const node = data.nodes.at(-1);
  if (attribute === smd.HREF || attribute === smd.SRC) {
    if (safe(value)) point(node, value);
  } else if (attribute === smd.CHECKED) node.checked = true;
  else if (attribute === smd.START && Number.isInteger(+value)) node.start = +value;
}

/** Append Markdown to `root` as it comes. The parser nests to a fixed depth: past it the rest is plain text. */
export function stream(root) {
  const renderer = { data: { nodes: [root] }, add_token: open, end_token: close, add_text: add, set_attr: set };
  let parser = smd.parser(renderer);
  const plain = () => {
    parser = null;
    renderer.data.nodes = [root.appendChild(document.createElement("div"))];
    renderer.data.nodes[0].className = "plain";
  };
  return {
    write(text) {
      if (parser && parser.len > 18) plain();
      if (parser) smd.parser_write(parser, text);
      else root.lastElementChild.append(text);
    },
    end() {
      if (parser) smd.parser_end(parser);
    },
  };
}

// ---- when it is complete -------------------------------------------------------------------------------------------

const TAGS = (
  "a blockquote br code del div em h2 h3 h4 h5 h6 hr li ol p pre s span strong table tbody td th thead tr ul"
).split(" ");
const CLEAN = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["href", "title", "class", "start", "target", "rel", "tabindex"],
  ALLOWED_URI_REGEXP: /^(?:https?:\/\/|mailto:)/i,
  ADD_URI_SAFE_ATTR: ["target", "rel", "start", "tabindex"],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

let tools = null;
let loading = null;

/** Load what `render` needs. Asked for while an answer streams, so that its end waits for nothing. */
export function ready() {
  loading ??= load().catch((problem) => {
    loading = null; // the network was away: asked for again with the next answer
    console.warn("Markdown is shown as text:", problem.message);
  });
  return loading;
}

async function load() {
  const [{ default: MarkdownIt }] = await Promise.all([
    import(`${NPM}/markdown-it/dist/browser/markdown-it.esm.min.mjs`),
    import(`${NPM}/dompurify/dist/purify.min.js`),
  ]);
  tools = { parser: parser_of(MarkdownIt), purify: globalThis.DOMPurify };
}

function parser_of(MarkdownIt) {
  const parser = new MarkdownIt({ html: false, linkify: true, breaks: true });
  parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });
  parser.validateLink = (href) => Boolean(safe(href));
  parser.renderer.rules.heading_open = (tokens, at) => `<${heading(+tokens[at].tag[1])}>`;
  parser.renderer.rules.heading_close = (tokens, at) => `</${heading(+tokens[at].tag[1])}>`;
  parser.renderer.rules.link_open = (tokens, at, options, _, self) => {
    tokens[at].attrSet("target", "_blank");
    tokens[at].attrSet("rel", "noopener noreferrer nofollow");
    return self.renderToken(tokens, at, options);
  };
  parser.renderer.rules.image = (tokens, at) => {
    const escape = parser.utils.escapeHtml;
    const name = escape(tokens[at].content || "image");
    const href = escape(tokens[at].attrGet("src") ?? "");
    return `<a class="image" href="${href}" target="_blank" rel="noopener noreferrer nofollow">${name}</a>`;
  };
  add_maths(parser);
  return parser;
}

/** Show complete Markdown in `root`, in place of what is there: at once where `ready()` has come true. */
export function render(text, root) {
  if (!tools) return void ready().then(() => (tools ? render(text, root) : (root.textContent = text)));
  root.replaceChildren(tools.purify.sanitize(tools.parser.render(text), CLEAN));
  for (const block of root.querySelectorAll("pre > code")) frame(block);
  const maths = root.querySelectorAll(".math");
  if (maths.length) void set_maths(maths);
}

/** A bar over each code block with its language and a copy button. */
function frame(code) {
  const language = /language-([\w+#-]+)/.exec(code.className)?.[1]?.toLowerCase() ?? "";
  const bar = document.createElement("div");
  bar.className = "code-bar";
  const label = document.createElement("span");
  label.textContent = language;
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "code-copy";
  copy.textContent = "Copy code";
  bar.append(label, copy);
  const box = document.createElement("div");
  box.className = "code";
  code.parentElement.tabIndex = 0;
  code.parentElement.replaceWith(box);
  box.append(bar, code.parentElement);
  const name = LANGUAGES.has(language) ? language : ALIASES[language];
  if (name && code.textContent.length < LONGEST_COLOURED) void colour(code, name);
}

// ---- code ----------------------------------------------------------------------------------------------------------

// Names come from this list only: what a model calls its language is never part of an address.
const LANGUAGES = new Set(
  (
    "bash c cpp csharp css diff dockerfile elixir erlang go graphql haskell ini java javascript json julia kotlin " +
    "latex less lua makefile markdown matlab nginx objectivec perl php plaintext powershell protobuf python r ruby " +
    "rust scala scss shell sql swift typescript vim xml yaml"
  ).split(" "),
);
const ALIASES = {
  "c++": "cpp", "c#": "csharp", cs: "csharp", console: "shell", docker: "dockerfile", golang: "go", html: "xml",
  js: "javascript", jsx: "javascript", kt: "kotlin", make: "makefile", md: "markdown", node: "javascript", ps1: "powershell",
  py: "python", python3: "python", rb: "ruby", rs: "rust", sh: "bash", svg: "xml", tex: "latex", toml: "ini", ts: "typescript",
  tsx: "typescript", yml: "yaml", zsh: "bash",
};

async function colour(code, name) {
  const [{ default: highlight }, { default: language }] = await Promise.all([
    import(`${HIGHLIGHT}/core.min.js`),
    import(`${HIGHLIGHT}/languages/${name}.min.js`),
  ]);
  if (!highlight.getLanguage(name)) highlight.registerLanguage(name, language);
  const html = highlight.highlight(code.textContent, { language: name, ignoreIllegals: true }).value;
  code.replaceChildren(tools.purify.sanitize(html, CLEAN));
}

// ---- maths ---------------------------------------------------------------------------------------------------------

const LONGEST_MATHS = 4_000;
const FENCES = [["$$", "$$"], ["\\[", "\\]"], ["\\(", "\\)"], ["$", "$"]];

function add_maths(parser) {
  parser.inline.ruler.before("escape", "maths", maths_inline);
  parser.block.ruler.before("fence", "maths", maths_block, { alt: ["paragraph", "blockquote", "list"] });
  const rule = (tokens, at) => {
    const kind = tokens[at].markup.startsWith("$$") || tokens[at].markup === "\\[" ? "math display" : "math";
    return `<span class="${kind}">${parser.utils.escapeHtml(tokens[at].content)}</span>`;
  };
  parser.renderer.rules.maths = rule;
  parser.renderer.rules.maths_block = (tokens, at) => `<p>${rule(tokens, at)}</p>\n`;
}

/** $…$ as Pandoc reads it, so that "from $5 to $10" stays money; also $$…$$, \(…\) and \[…\] on a line. */
function maths_inline(state, silent) {
  const fence = FENCES.find(([open]) => state.src.startsWith(open, state.pos));
  if (!fence) return false;
  const from = state.pos + fence[0].length;
  const to = state.src.slice(from, from + LONGEST_MATHS).indexOf(fence[1]) + from;
  if (to <= from) return false;
  const text = state.src.slice(from, to);
  const after = state.src[to + fence[1].length] ?? "";
  if (fence[0] === "$" && (/^\s|\s$|`/.test(text) || /\d/.test(after))) return false;
  if (!silent) Object.assign(state.push("maths", "span", 0), { content: text, markup: fence[0] });
  state.pos = to + fence[1].length;
  return true;
}

/** A display formula that starts a line and may span several. */
function maths_block(state, first, last, silent) {
  const line = (at) => state.src.slice(state.bMarks[at] + state.tShift[at], state.eMarks[at]);
  const fence = FENCES.slice(0, 2).find(([open]) => line(first).startsWith(open));
  if (!fence) return false;
  let text = line(first).slice(2);
  let at = first;
  while (!text.includes(fence[1])) {
    at += 1;
    if (at >= last || text.length > LONGEST_MATHS) return false;
    text += `\n${line(at)}`;
  }
  if (text.slice(text.indexOf(fence[1]) + 2).trim()) return false;
  if (silent) return true;
  state.line = at + 1;
  const content = text.slice(0, text.indexOf(fence[1]));
  Object.assign(state.push("maths_block", "span", 0), { content, markup: fence[0], map: [first, at + 1], block: true });
  return true;
}

let katex = null;

async function set_maths(elements) {
  katex ??= load_katex();
  await katex;
  for (const element of elements) {
    const displayMode = element.classList.contains("display");
    const limits = { throwOnError: false, trust: false, strict: "ignore", maxSize: 20, maxExpand: 500 };
    globalThis.katex.render(element.textContent, element, { displayMode, ...limits });
  }
}

function load_katex() {
  const sheet = document.createElement("link");
  sheet.rel = "stylesheet";
  sheet.href = `${NPM}/katex/dist/katex.min.css`;
  document.head.append(sheet);
  return import(`${NPM}/katex/dist/katex.min.js`);
}

/** Where Markdown of `source` (the raw text, kept beside it) is shown. */
export function prose(source) {
  const before = source.previousElementSibling;
  if (before?.matches(".prose")) return before;
  const root = document.createElement("div");
  root.className = "prose";
  root.setAttribute("hx-ignore", "");
  source.before(root);
  return root;
}

// The form at the bottom: mode, words, pictures to send, settings of a drawing, a turn that is edited, and hints.

import { $, button, counted, listed, make } from "./dom.js";
import { hintFor } from "./hints.js";
import { read } from "./pictures.js";
import { notice, tell } from "./messages.js";

const SETTINGS = ["n", "guidance", "temperature"];

export const composer = {
  mode: "ask",
  attached: [],
  editing: null, // the turn that the next submit replaces
  isRunning: false,
  edits: false, // whether the model draws from pictures, too
  reading: null, // a promise while files are read: a question waits for its pictures
  hint: null,
  context: () => ({ hasPicture: false, about: null, followers: 0 }), // set by app.js

  update() {
    const isDraw = this.mode === "draw";
    const takesPictures = !isDraw || this.edits;
    const isChange = isDraw && this.edits && this.attached.length > 0;
    $("composer").dataset.mode = this.mode;
    document.querySelector(`input[name=mode][value=${this.mode}]`).checked = true;
    $("settings").hidden = $("settings-open").hidden = !isDraw;
    $("choose").hidden = !takesPictures;
    $("attached").hidden = !takesPictures || !this.attached.length;
    $("words").placeholder = isChange ? "Say what to change …" : isDraw ? "Say what to draw …" : "Ask about a picture …";
    $("words-label").textContent = isChange ? "What to change" : isDraw ? "What to draw" : "Question";
    $("go").textContent = this.isRunning ? "Stop" : isDraw ? "Draw" : "Ask";
    $("go").classList.toggle("stop", this.isRunning);
    for (const id of SETTINGS) $(`${id}-shown`).textContent = $(id).value;
    this.showAttached();
    this.showEditing();
    this.showHint();
  },

  showAttached() {
    $("attached").replaceChildren(...this.attached.map((picture, i) => make("li", {},
      make("img", { src: picture.url, alt: picture.name }),
      make("button", { type: "button", "aria-label": `Take ${picture.name} away`, onclick: () => { this.attached.splice(i, 1); this.update(); $("words").focus(); } }, "×"))));
  },

  showEditing() {
    const { followers } = this.context();
    $("editing").hidden = !this.editing;
    $("editing-words").textContent = followers ? `Editing. ${counted(followers, "later question")} about it will be removed.` : "Editing";
  },

  showHint() {
    const { hasPicture, about } = this.context();
    const words = $("words").value.trim();
    const hint = hintFor({ mode: this.mode, words, attached: this.attached.length, hasPicture: hasPicture || this.attached.length > 0, about, edits: this.edits });
    if (hint?.text === this.hint?.text) return;
    this.hint = hint;
    $("hint").replaceChildren(...(hint ? [make("span", {}, hint.text), button(hint.label, () => this.follow(hint.act))] : []));
  },

  follow(act) {
    if (act === "choose") return $("choose").click();
    if (act === "about") return $("about").showModal();
    this.setMode(act);
    $("words").focus();
  },

  setMode(mode) {
    this.mode = mode;
    this.update();
  },

  setWords(words) {
    $("words").value = words;
    this.grow();
    this.showHint();
  },

  grow() {
    const field = $("words");
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight}px`; // the style sheet bounds it
  },

  // mode: where they are for; left out, they stay under Draw if the model edits pictures.
  attach(pictures, mode = this.mode === "draw" && this.edits ? "draw" : "ask") {
    if (!pictures.length) return;
    this.attached.push(...pictures);
    this.setMode(mode);
    $("words").focus();
  },

  attachFiles(files) {
    this.reading = Promise.all([this.reading, this.readFiles(files)]);
    return this.reading;
  },

  async readFiles(files) {
    const { pictures, failed } = await read(files);
    this.attach(pictures);
    if (pictures.length) tell(`${counted(pictures.length, "picture")} added`);
    if (failed.length) notice(`Not added: ${listed(failed)}. This browser cannot read ${failed.length === 1 ? "it as a picture" : "them as pictures"}.`);
  },

  clear() {
    this.attached = [];
    this.editing = null;
    this.setWords("");
    this.update();
  },

  // Puts a turn's words, pictures and settings back into the form.
  edit(turn, replaces) {
    this.clear();
    this.mode = turn.kind;
    if (turn.kind === "ask") this.attached = [...turn.pictures];
    else {
      this.attached = [...turn.sources ?? []];
      this.setDrawing(turn.drawing);
    }
    this.editing = replaces ? turn : null;
    this.setWords(turn.kind === "ask" ? turn.words : turn.drawing.prompt);
    this.update();
    $("words").focus();
  },

  setDrawing({ n, seed, guidance_scale, temperature }) {
    Object.assign($("n"), { value: n });
    Object.assign($("seed"), { value: seed });
    Object.assign($("guidance"), { value: guidance_scale });
    Object.assign($("temperature"), { value: temperature });
  },

  // The settings of a drawing; seed is null for a random one.
  drawing(prompt) {
    const seed = $("seed").value === "" ? null : Number($("seed").value);
    return { prompt, n: Number($("n").value), seed, guidance_scale: Number($("guidance").value), temperature: Number($("temperature").value) };
  },

  setLimits({ guidance_scale, temperature, max_n, edits }) {
    this.edits = edits;
    $("n").max = max_n;
    $("n").value = Math.min(4, max_n);
    $("guidance").max = Math.max(10, guidance_scale);
    $("guidance").value = guidance_scale;
    $("temperature").value = temperature;
    this.update();
  },
};

const filesOf = (transfer) => [...(transfer?.files ?? [])];
const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");

// submit(): Enter or the button. scroll(by): the conversation, from keys in the field.
export function setUp(submit, scroll) {
  const words = $("words");
  $("composer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  words.addEventListener("input", () => { composer.grow(); composer.showHint(); });
  words.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (!composer.isRunning) submit(); }
    const pages = { PageUp: -1, PageDown: 1 }[event.key];
    if (pages && words.scrollHeight <= words.clientHeight) { event.preventDefault(); scroll(pages); }
  });
  document.querySelectorAll("input[name=mode]").forEach((input) => input.addEventListener("change", () => composer.setMode(input.value)));
  for (const id of SETTINGS) $(id).addEventListener("input", () => composer.update());
  $("settings-open").addEventListener("click", () => {
    const isOpen = $("settings").classList.toggle("open");
    $("settings-open").setAttribute("aria-expanded", isOpen);
  });
  $("editing-cancel").addEventListener("click", () => { composer.clear(); words.focus(); });
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => { await composer.attachFiles([...$("file").files]); $("file").value = ""; });
  setUpPaste();
  setUpDrop();
}

function setUpPaste() {
  document.addEventListener("paste", (event) => {
    const files = filesOf(event.clipboardData);
    if (!files.length || event.clipboardData.getData("text/plain")) return; // cells and rich text bring a picture of themselves
    event.preventDefault();
    composer.attachFiles(files);
  });
}

function setUpDrop() {
  let depth = 0;
  const dragging = (change) => { depth = Math.max(0, depth + change); $("drop").classList.toggle("on", depth > 0); };
  document.addEventListener("dragenter", (event) => { if (hasFiles(event)) { event.preventDefault(); dragging(1); } });
  document.addEventListener("dragleave", (event) => { if (hasFiles(event)) dragging(-1); });
  document.addEventListener("dragover", (event) => { if (hasFiles(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    dragging(-depth);
    composer.attachFiles(filesOf(event.dataTransfer));
  });
}

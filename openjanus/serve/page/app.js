// The page: what the user does, and what becomes of it.

import { ApiError, events, key, models } from "./api.js";
import { imagesOf, read } from "./pictures.js";
import { AnswerTurn, DrawingTurn, button, make, problem, userTurn } from "./turns.js";

const $ = (id) => document.getElementById(id);
const IDEAS = ["two red apples", "a blue car", "a yellow star above a green tree", "three pink hearts"];
const PARTIAL_IMAGES = 16;

const state = { mode: "ask", attached: [], turns: [], running: null, model: null };

// Conversation

function show(node) {
  $("welcome").hidden = true;
  $("log").append(node);
  follow(true);
}

function follow(always = false) {
  const box = $("scroll");
  if (always || box.scrollHeight - box.scrollTop - box.clientHeight < 160) box.scrollTop = box.scrollHeight;
}

function tell(words) { $("status").textContent = words; }

function contentOf(words, pictures) {
  const parts = pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  return words ? [...parts, { type: "text", text: words }] : parts;
}

// One thing runs at a time: `work(signal)` until it is done, stopped or has failed.
async function run(work) {
  const stop = new AbortController();
  state.running = stop;
  update();
  try {
    await work(stop.signal);
  } finally {
    state.running = null;
    update();
    tell("");
  }
}

function failed(error, again) {
  const wait = error.code === "queue_full" || error.status === 429 ? " It is busy: try again in a moment." : "";
  const said = error.message.charAt(0).toUpperCase() + error.message.slice(1) + (/[.!?]$/.test(error.message) ? "" : ".");
  show(problem(said + wait, button("Try again", again)));
  if (error.status === 401) openKey();
}

async function ask(words, pictures) {
  show(userTurn(words, pictures, false));
  state.turns.push({ role: "user", content: contentOf(words, pictures) });
  await answer();
}

// Answers the last turn. What does not fit the model any more is left out from the beginning.
async function answer() {
  const turn = new AnswerTurn();
  show(turn.node);
  await run(async (signal) => {
    tell("Answering");
    let first = 0;
    let note = "";
    for (;;) {
      try {
        for await (const event of events("/v1/chat/completions", { messages: state.turns.slice(first) }, signal)) {
          const choice = event.choices[0];
          if (choice?.delta.content) turn.add(choice.delta.content);
          if (choice?.finish_reason === "length") note = "cut at the limit";
          follow();
        }
        break;
      } catch (error) {
        const more = state.turns.length - first;
        if (error.code === "context_length_exceeded" && more > 1) {
          first += Math.max(2, 2 * Math.floor(more / 4)); // turns come in pairs
          note = "earlier turns left out";
          continue;
        }
        if (error.name !== "AbortError" && !(error instanceof ApiError)) throw error;
        if (error.name !== "AbortError") {
          if (turn.text) turn.end("broken off"); else turn.node.remove();
          return failed(error, retry(answer));
        }
        note = "stopped";
        break;
      }
    }
    turn.end(note);
    state.turns.push({ role: "assistant", content: turn.text });
    follow();
  });
}

// Takes the notice away that offers it, and does the thing again unless something runs.
function retry(again) {
  return (event) => {
    if (state.running) return;
    event.target.closest("li").remove();
    again();
  };
}

async function draw(drawing, isRepeat = false) {
  if (!isRepeat) show(userTurn(drawing.prompt, [], true));
  const turn = new DrawingTurn(drawing, attachDrawing);
  show(turn.node);
  await run(async (signal) => {
    tell(`Drawing ${drawing.n === 1 ? "a picture" : `${drawing.n} pictures`}`);
    let note = "";
    try {
      for await (const event of events("/v1/images/generations", { ...drawing, partial_images: PARTIAL_IMAGES }, signal)) {
        if (event.type === "image_generation.completed") turn.finish(event); else turn.partial(event);
        follow();
      }
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof ApiError)) throw error;
      if (error.name !== "AbortError") {
        if (turn.done) turn.end("broken off"); else turn.node.remove();
        return failed(error, retry(() => draw(drawing, true)));
      }
      note = "stopped";
    }
    const same = () => state.running || draw(drawing, true);
    const other = () => state.running || draw({ ...drawing, seed: randomSeed() }, true);
    turn.end(note, button("Same seed again", same), button("New seed", other));
    follow();
  });
}

const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;

// Composer

function update() {
  const isDraw = state.mode === "draw";
  $("composer").dataset.mode = state.mode;
  $("settings").hidden = !isDraw;
  $("choose").hidden = isDraw;
  $("attached").hidden = isDraw || !state.attached.length;
  $("words").placeholder = isDraw ? "Say what to draw …" : "Ask about a picture …";
  $("words-label").textContent = isDraw ? "What to draw" : "Question";
  $("go").textContent = state.running ? "Stop" : isDraw ? "Draw" : "Ask";
  $("go").classList.toggle("stop", Boolean(state.running));
  for (const id of ["n", "guidance", "temperature"]) $(`${id}-shown`).textContent = $(id).value;
  $("attached").replaceChildren(...state.attached.map((picture, i) => make("li", {},
    make("img", { src: picture.url, alt: picture.name }),
    make("button", { type: "button", "aria-label": `Take ${picture.name} away`, onclick: () => { state.attached.splice(i, 1); update(); $("words").focus(); } }, "×"))));
  $("new").disabled = !$("log").children.length;
}

function setMode(mode) {
  state.mode = mode;
  document.querySelector(`input[name=mode][value=${mode}]`).checked = true;
  update();
}

function attach(pictures) {
  state.attached.push(...pictures);
  setMode("ask");
  $("words").focus();
}

function attachDrawing(picture) {
  attach([picture]);
  tell("The drawing is added: ask about it");
}

async function attachFiles(files) {
  if (!files.length) return;
  const { pictures, failed: bad } = await read(files);
  attach(pictures);
  tell(bad ? `${bad === 1 ? "One file is" : `${bad} files are`} no picture` : `${pictures.length === 1 ? "Picture" : "Pictures"} added`);
}

function grow() {
  const field = $("words");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, 200)}px`;
}

function submit() {
  if (state.running) return state.running.abort();
  const words = $("words").value.trim();
  if (!words && !(state.mode === "ask" && state.attached.length)) return $("words").focus();
  if (state.mode === "draw" && !$("seed").checkValidity()) {
    tell("A seed is a whole number");
    return $("seed").focus();
  }
  $("words").value = "";
  grow();
  if (state.mode === "draw") {
    const seed = $("seed").value === "" ? randomSeed() : Number($("seed").value);
    return draw({ prompt: words, n: Number($("n").value), seed, guidance_scale: Number($("guidance").value), temperature: Number($("temperature").value) });
  }
  const pictures = state.attached.splice(0);
  update();
  return ask(words, pictures);
}

function startAnew() {
  state.running?.abort();
  Object.assign(state, { attached: [], turns: [] });
  $("log").replaceChildren();
  $("welcome").hidden = false;
  update();
  $("words").focus();
}

// Colours and key

const THEMES = { auto: ["◐", "as the system"], light: ["☀", "light"], dark: ["☾", "dark"] };

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("theme", theme); } catch { /* storage is off */ }
  $("theme").textContent = THEMES[theme][0];
  $("theme").setAttribute("aria-label", `Colours: ${THEMES[theme][1]}`);
  $("theme").title = `Colours: ${THEMES[theme][1]}`;
}

function nextTheme() {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % names.length]);
}

function openKey() {
  $("key").value = key.get();
  $("key-dialog").showModal();
}

async function loadModel() {
  try {
    const [model] = await models();
    const { guidance_scale, temperature, max_n } = model.drawing;
    $("model").textContent = model.id;
    $("n").max = max_n;
    $("n").value = Math.min(4, max_n);
    $("guidance").max = Math.max(10, guidance_scale);
    $("guidance").value = guidance_scale;
    $("temperature").value = temperature;
    update();
  } catch (error) {
    if (error.status === 401) openKey(); else tell(error.message);
  }
}

// Wiring

$("composer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
$("words").addEventListener("input", grow);
$("words").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); if (!state.running) submit(); }
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !$("key-dialog").open) state.running?.abort(); });
document.querySelectorAll("input[name=mode]").forEach((input) => input.addEventListener("change", () => setMode(input.value)));
for (const id of ["n", "guidance", "temperature"]) $(id).addEventListener("input", update);
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => { await attachFiles([...$("file").files]); $("file").value = ""; });
$("new").addEventListener("click", startAnew);
$("theme").addEventListener("click", nextTheme);
$("key-open").addEventListener("click", openKey);
$("key-dialog").addEventListener("close", () => {
  if ($("key-dialog").returnValue === "keep") { key.set($("key").value.trim()); loadModel(); }
  $("key").value = "";
});
document.addEventListener("paste", (event) => {
  const files = imagesOf(event.clipboardData);
  if (files.length) { event.preventDefault(); attachFiles(files); }
});
let depth = 0;
const dragging = (change) => { depth = Math.max(0, depth + change); $("drop").classList.toggle("on", depth > 0); };
document.addEventListener("dragenter", (event) => { event.preventDefault(); dragging(1); });
document.addEventListener("dragleave", () => dragging(-1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => { event.preventDefault(); dragging(-depth); attachFiles(imagesOf(event.dataTransfer)); });

$("ideas").append(...IDEAS.map((idea) => make("li", {}, button(idea, () => { setMode("draw"); $("words").value = idea; grow(); $("words").focus(); }, "idea"))));
setTheme(document.documentElement.dataset.theme ?? "auto");
update();
loadModel();
if (matchMedia("(pointer: fine)").matches) $("words").focus();

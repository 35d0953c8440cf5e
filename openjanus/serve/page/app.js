// The page: what the user does, and what becomes of it.

import { showAbout, showSuggestions } from "./about.js";
import { ApiError, events, key, models } from "./api.js";
import { composer, setUp as setUpComposer } from "./composer.js";
import { $, button, counted, make } from "./dom.js";
import { notice, tell } from "./messages.js";
import { copyText, saveConversation, saveDrawing } from "./save.js";
import { openKey, setUp as setUpSettings } from "./settings.js";
import * as store from "./store.js";
import { askTurn, attempts, drawTurn, drawingRequest, followers, hasPicture } from "./talk.js";
import { viewOf } from "./turns.js";
import * as viewer from "./viewer.js";

const PARTIAL_IMAGES = 16;
const RETRY_TEMPERATURE = 0.8;
const LEFT = { message: "The page was closed before this was done.", status: 0, code: null };

const state = { turns: [], running: null, model: null, isOut: false, isRestored: false };
const views = new Map(); // turn -> its view

// The conversation on the page

function place(turn) {
  const view = viewOf(turn, actions);
  views.get(turn)?.node.remove();
  views.set(turn, view);
  const next = state.turns[state.turns.indexOf(turn) + 1];
  $("log").insertBefore(view.node, views.get(next)?.node ?? null);
}

function update() {
  composer.isRunning = Boolean(state.running);
  composer.update();
  $("welcome").hidden = !state.isRestored || state.turns.length > 0;
  for (const id of ["new", "menu-save", "menu-delete"]) $(id).disabled = !state.turns.length;
  for (const it of $("log").querySelectorAll("[data-idle]")) it.disabled = Boolean(state.running);
  state.turns.forEach((turn, i) => {
    if (turn.kind !== "ask") return;
    const view = views.get(turn);
    view.scope.hidden = !turn.pictures.length || !state.turns.slice(0, i).some(({ kind, answer }) => kind === "ask" && answer);
    if (view.retry) view.retry.hidden = followers(state.turns, turn).length > 0;
  });
  fit();
}

// Drawings are sized so that all pictures of one are in view at once.
function fit() {
  const box = $("scroll");
  const head = getComputedStyle($("header")).position === "sticky" ? $("header").offsetHeight : 0;
  const width = $("log").clientWidth - 2 * parseFloat(getComputedStyle($("log")).paddingLeft);
  for (const [{ kind }, view] of views) if (kind === "draw" && width > 0) view.fit(width, box.clientHeight - head - 52);
}

// Keeps the end of the conversation in view while it grows, unless the user has scrolled away from it.
let isAtEnd = true;
let lastTop = 0;

function follow(always = false) {
  isAtEnd ||= always;
  if (isAtEnd && state.turns.length) $("scroll").scrollTop = $("scroll").scrollHeight;
}

function noteScroll() {
  const { scrollHeight, scrollTop, clientHeight } = $("scroll");
  if (scrollHeight - scrollTop - clientHeight < 60) isAtEnd = true;
  else if (scrollTop < lastTop) isAtEnd = false;
  lastTop = scrollTop;
}

// What is kept in the browser

async function keep(...turns) {
  try {
    if (await store.keep(turns)) {
      notice(`This browser keeps ${store.MAX_CHARS / 1e6} MB of a conversation, and that is full: after a reload the oldest turns will be gone. Save what you want to keep.`, button("Save conversation", saveAll));
    }
  } catch {
    notice("This browser does not keep the conversation: after a reload it will be gone.", button("Save conversation", saveAll));
  }
}

const saveAll = () => saveConversation(state.turns, state.model?.id ?? "the model");

function drop(turns) {
  if (turns.includes(state.running?.turn)) stop();
  state.turns = state.turns.filter((turn) => !turns.includes(turn));
  for (const turn of turns) { views.get(turn).node.remove(); views.delete(turn); }
  if (turns.includes(composer.editing)) composer.clear();
  update();
}

// Takes turns away, and offers to bring them back.
function remove(turns, said) {
  const before = state.turns;
  drop(turns);
  store.forget(turns).catch(() => {});
  const undo = () => {
    state.turns = [...new Set([...before, ...state.turns])].sort((a, b) => a.id - b.id);
    for (const turn of [...turns].reverse()) place(turn);
    keep(...turns);
    update();
    tell("");
    $("words").focus();
  };
  tell(said, ...(turns.length ? [button("Undo", undo)] : []));
  $("words").focus();
}

function startAnew() {
  remove([...state.turns], "A new conversation.");
  composer.clear();
}

function deleteAll() {
  drop([...state.turns]);
  composer.clear();
  store.forgetAll().then(() => tell("Deleted: this browser keeps nothing of the conversation."), () => {});
  $("words").focus();
}

// Asking and drawing. One thing runs at a time.

function stop() {
  state.running?.stop.abort();
  state.running = null;
}

// `work(signal)` until it is done, stopped or has failed; what came of it stands in the turn.
async function run(turn, said, work) {
  const running = { turn, stop: new AbortController() };
  state.running = running;
  Object.assign(turn, { note: "", problem: null });
  if ($("log").contains(document.activeElement)) $("go").focus(); // its buttons go away
  views.get(turn).begin();
  notice("");
  update();
  tell(said);
  keep({ ...turn, problem: LEFT });
  try {
    await work(running.stop.signal);
  } catch (error) {
    if (error.name === "AbortError") turn.note = "stopped";
    else turn.problem = problemOf(error);
  }
  if (state.running === running) {
    state.running = null;
    tell("");
  }
  if (state.turns.includes(turn)) {
    views.get(turn).end();
    keep(turn);
  }
  update();
  if (turn.problem?.status === 401) openKey(() => state.turns.includes(turn) && actions.again(turn));
}

function problemOf(error) {
  if (!(error instanceof ApiError)) console.error(error);
  const { message, status = 0, code = null } = error instanceof ApiError ? error : { message: "the page failed on this answer" };
  const wait = status === 429 ? " It is busy: try again in a moment." : "";
  return { message: message.charAt(0).toUpperCase() + message.slice(1) + (/[.!?]$/.test(message) ? "" : ".") + wait, status, code };
}

// Answers a question. What does not fit the model is left out, oldest first, until it fits.
async function answer(turn, settings = {}) {
  const old = turn.answer;
  turn.answer = "";
  await run(turn, "Answering", async (signal) => {
    let note = settings.temperature ? `drawn at temperature ${settings.temperature}` : "";
    let isFirst = true;
    try {
      for (const messages of attempts(state.turns, turn)) {
        if (!isFirst) note = "earlier turns left out";
        isFirst = false;
        try {
          for await (const event of events("/v1/chat/completions", { model: state.model?.id, messages, ...settings }, signal)) {
            const choice = event.choices[0];
            if (choice?.delta.content) views.get(turn)?.add(choice.delta.content);
            if (choice?.finish_reason === "length") note = "cut at the limit";
          }
          turn.note = note;
          return;
        } catch (error) {
          if (error.code !== "context_length_exceeded" || messages.length === 1) throw error;
        }
      }
    } finally {
      turn.answer ||= old;
    }
  });
}

async function draw(turn) {
  turn.pictures.fill(null);
  const { n } = turn.drawing;
  await run(turn, `Drawing ${counted(n, "picture")}`, async (signal) => {
    const [path, body] = drawingRequest(turn);
    for await (const event of events(path, { model: state.model?.id, ...body, partial_images: PARTIAL_IMAGES }, signal)) {
      const view = views.get(turn);
      if (event.type.endsWith(".completed")) {
        turn.pictures[event.image_index] = `data:image/png;base64,${event.b64_json}`;
        if (event.unknown_words) turn.note = `does not know: ${event.unknown_words.join(", ")}`;
        view?.finish(event.image_index, turn.pictures[event.image_index]);
      } else view?.partial(event);
    }
    if (turn.pictures.includes(null)) throw new ApiError(0, { error: { message: "the connection broke off" } });
  });
}

// Puts a turn at the end, or in the place of another, and runs it.
function start(turn, instead = null) {
  if (instead) {
    turn.id = instead.id;
    const at = state.turns.indexOf(instead);
    const gone = followers(state.turns, instead);
    state.turns[at] = turn;
    views.set(turn, views.get(instead));
    views.delete(instead);
    drop(gone);
    store.forget(gone).catch(() => {});
  } else state.turns.push(turn);
  place(turn);
  const done = turn.kind === "ask" ? answer(turn) : draw(turn);
  if (instead) views.get(turn).node.scrollIntoView({ block: "nearest" }); else follow(true);
  return done;
}

const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000; // short enough to be read

const startDrawing = (drawing, sources, instead) => start(drawTurn({ ...drawing, seed: drawing.seed ?? randomSeed() }, sources), instead);

async function submit() {
  if (state.running) return stop();
  await composer.reading;
  if (state.running) return; // a second Enter, while pictures were read
  const { mode, attached, editing } = composer;
  const words = $("words").value.trim();
  if (!words && !(mode === "ask" && attached.length)) return $("words").focus();
  if (mode === "draw" && !$("seed").checkValidity()) {
    notice("A seed is a whole number of up to 15 digits; leave it empty for a random one.");
    return $("seed").focus();
  }
  if (mode === "draw") {
    const drawing = composer.drawing(words);
    const sources = composer.edits ? attached : [];
    composer.editing = null;
    if (sources.length) composer.attached = [];
    composer.setWords("");
    return startDrawing(drawing, sources, editing);
  }
  composer.clear();
  return start(askTurn(words, attached), editing);
}

// What a turn's buttons do

const actions = {
  again: (turn) => turn.kind === "ask" ? answer(turn) : draw(turn),
  retry: (turn) => answer(turn, { temperature: RETRY_TEMPERATURE, seed: randomSeed() }),
  edit: (turn) => composer.edit(turn, turn.kind === "ask" || Boolean(turn.problem)),
  remove: (turn) => remove([turn], "Deleted."),
  draw: (words) => { composer.setMode("draw"); startDrawing(composer.drawing(words), []); },
  ask: (words) => { composer.setMode("ask"); start(askTurn(words, [])); },
  drawAgain: (drawing, sources) => startDrawing(drawing, sources ?? []),
  saveAll: saveDrawing,
  enlarge: viewer.enlarge,
  askAbout: (picture) => { composer.attach([picture], "ask"); update(); tell("The picture is added: ask about it"); },
  change: (picture) => { composer.attach([picture], "draw"); update(); tell("The picture is added: say what to change"); },
  canChange: () => composer.edits,
  copy: async (text) => { try { await copyText(text); tell("Copied"); } catch { notice("The browser does not allow copying."); } },
};

// There is no model to ask yet.
function tellOut(words, label, act) {
  state.isOut = true;
  notice(words, button(label, () => act()));
}

// From now on, questions and drawings go to this model.
function useModel(model) {
  state.model = model;
  $("model").textContent = model.id;
  composer.setLimits(model.drawing);
  showAbout(model.id, model.about);
  update();
}

// Whether the server lets us in.
async function loadModel() {
  try {
    const all = (await models()).filter((model) => !model.alias_of);
    const chosen = all.find((model) => model.id === state.model?.id) ?? all[0];
    $("model-choice").hidden = all.length < 2;
    $("model").classList.toggle("unseen", all.length > 1);
    $("models").replaceChildren(...all.map((model) => make("option", { value: model.id, selected: model === chosen }, model.id)));
    $("models").onchange = () => useModel(all[$("models").selectedIndex]);
    useModel(chosen);
    if (state.isOut) notice("");
    state.isOut = false;
    return true;
  } catch (error) {
    if (error.status === 401) openKey(undefined, key.get() ? "The server does not take this key." : "");
    else tellOut(problemOf(error).message, "Try again", loadModel);
    return false;
  }
}

async function restore() {
  const unreadable = []; // written by another version of the page
  try {
    const turns = await store.load();
    state.turns = [...turns, ...state.turns];
    for (const turn of [...turns].reverse()) {
      try { place(turn); } catch { unreadable.push(turn); }
    }
    state.turns = state.turns.filter((turn) => !unreadable.includes(turn));
    if (unreadable.length) {
      notice(`${counted(unreadable.length, "turn")} of the kept conversation could not be read.`);
      await store.forget(unreadable);
    }
  } catch { /* told when the first turn is to be kept */ }
  state.isRestored = true;
  update();
  follow(true);
}

// Wiring

const closesMenu = (work) => () => { $("menu").hidePopover(); work(); };
$("new").addEventListener("click", startAnew);
$("menu-about").addEventListener("click", closesMenu(() => $("about").showModal()));
$("menu-save").addEventListener("click", closesMenu(saveAll));
$("menu-delete").addEventListener("click", closesMenu(deleteAll));
$("key-open").addEventListener("click", closesMenu(() => openKey(null)));
$("about-open").addEventListener("click", () => $("about").showModal());
$("about-close").addEventListener("click", () => $("about").close());
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.running && !document.querySelector("dialog[open], :popover-open")) { event.preventDefault(); stop(); }
});

composer.context = () => ({
  hasPicture: hasPicture(state.turns),
  about: state.model?.about ?? null,
  followers: composer.editing ? followers(state.turns, composer.editing).length : 0,
});
setUpComposer(submit, (pages) => $("scroll").scrollBy({ top: pages * 0.9 * $("scroll").clientHeight }));
viewer.setUp(actions.askAbout);
showSuggestions(
  (words, picture) => { composer.clear(); composer.attach([picture], "ask"); composer.setWords(words); update(); },
  (words) => { composer.clear(); composer.setMode("draw"); composer.setWords(words); $("words").focus(); update(); },
);
setUpSettings(loadModel, () => { if (!state.model) tellOut("This server asks for a key.", "Enter key", openKey); });
$("scroll").addEventListener("scroll", noteScroll, { passive: true });
new ResizeObserver(() => { fit(); follow(); }).observe($("scroll"));
new ResizeObserver(() => follow()).observe($("log"));
update();
restore();
loadModel();
if (matchMedia("(pointer: fine)").matches) $("words").focus();

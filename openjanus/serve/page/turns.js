// How turns look: a question with its answer, words with their drawings. Builds DOM; knows no server.
// `actions` are what the user can do with a turn; app.js has them.

import { button, make } from "./dom.js";
import { looksLikeDrawing, looksLikeQuestion } from "./hints.js";
import { render } from "./markdown.js";
import { drawingName, extensionOf } from "./pictures.js";
import { columnsFor } from "./grid.js";

// A button that waits while something runs.
const idle = (text, onclick, properties = {}) => {
  const it = button(text, onclick, properties);
  it.dataset.idle = "";
  return it;
};

// Small pictures are enlarged with hard edges; large ones are scaled softly.
export function picture(url, alt) {
  const img = make("img", { src: url, alt, decoding: "async" });
  img.addEventListener("load", () => img.classList.toggle("crisp", img.naturalWidth < 200));
  return img;
}

// The pictures that a user sent with a turn.
function shownPictures(pictures, actions) {
  const shown = pictures.map(({ url, name }) => ({ url, title: name, file: name.includes(".") ? name : `${name}.${extensionOf(url)}` }));
  return make("div", { className: "seen" }, ...shown.map(({ url, title }, i) =>
    make("button", { type: "button", className: "picture", "aria-label": `Enlarge ${title}`, onclick: () => actions.enlarge(shown, i) }, picture(url, title))));
}

const note = (words) => make("span", { className: "note" }, words);

class TurnView {
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.trouble = make("div");
    this.foot = make("div", { className: "foot" });
    this.node = make("li", { className: `turn ${turn.kind}` });
  }

  // The things that every turn offers, after its own ones.
  more(...buttons) {
    return [...buttons, idle("Delete", () => this.actions.remove(this.turn))];
  }

  showTrouble() {
    const { problem } = this.turn;
    this.trouble.replaceChildren(...(problem ? [make("div", { className: "problem", role: "alert" }, make("p", {}, problem.message),
      make("div", { className: "foot" }, ...this.more(idle("Try again", () => this.actions.again(this.turn)), idle("Edit", () => this.actions.edit(this.turn)))))] : []));
  }
}

export class AskView extends TurnView {
  constructor(turn, actions) {
    super(turn, actions);
    this.scope = make("p", { className: "scope", hidden: true }, "New picture: earlier turns are not sent with it.");
    this.body = make("div", { className: "said" });
    this.answer = make("div", { className: "answer" }, this.body, this.trouble, this.foot);
    this.node.append(this.scope, this.question(), this.answer);
    this.isDue = false;
    this.end();
  }

  question() {
    const { words, pictures } = this.turn;
    const mine = make("div", { className: "mine ask" }, make("h2", { className: "unseen" }, "You asked"));
    if (pictures.length) mine.append(shownPictures(pictures, this.actions));
    if (words) mine.append(make("p", {}, words));
    return mine;
  }

  begin() {
    this.answer.setAttribute("aria-busy", "true");
    this.body.replaceChildren(make("span", { className: "waiting", role: "img", "aria-label": "thinking" }));
    this.trouble.replaceChildren();
    this.foot.replaceChildren();
  }

  add(piece) {
    this.turn.answer += piece;
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => { this.isDue = false; this.show(); });
  }

  show() {
    if (this.turn.answer) this.body.replaceChildren(...render(this.turn.answer));
  }

  end() {
    const { turn, actions } = this;
    this.answer.setAttribute("aria-busy", "false");
    this.body.replaceChildren();
    this.show();
    this.showTrouble();
    this.foot.replaceChildren();
    if (turn.problem) return;
    if (!turn.answer && !turn.note) this.body.replaceChildren(make("p", { className: "nothing" }, "(no words)"));
    const copy = turn.answer && button("Copy", () => actions.copy(turn.answer));
    this.retry = idle("Retry", () => actions.retry(turn), { title: "Another answer, drawn at random" });
    const draw = looksLikeDrawing(turn.words) && idle("Draw this", () => actions.draw(turn.words));
    this.foot.append(...[turn.note && note(turn.note), draw, copy, this.retry, ...this.more(idle("Edit question", () => actions.edit(turn)))].filter(Boolean));
  }
}

export class DrawView extends TurnView {
  constructor(turn, actions) {
    super(turn, actions);
    this.grid = make("div", { className: "drawings" });
    this.bar = make("progress", { max: 1, value: 0, hidden: true, "aria-label": "Drawing" });
    this.body = make("div", { className: "drawing" }, this.grid, this.bar, this.trouble, this.foot);
    this.node.append(this.request(), this.body);
    this.setFrames();
    this.end();
  }

  request() {
    const { drawing, sources = [] } = this.turn;
    const mine = make("div", { className: "mine draw" }, make("h2", { className: "unseen" }, sources.length ? "You asked to change" : "You asked to draw"));
    if (sources.length) mine.append(shownPictures(sources, this.actions));
    mine.append(make("p", {}, drawing.prompt));
    return mine;
  }

  get done() { return this.turn.pictures.filter(Boolean).length; }

  setFrames() {
    this.frames = Array.from({ length: this.turn.drawing.n }, (_, i) => make("div", { className: "frame", role: "img", "aria-label": `Picture ${i + 1}, not there yet` }));
    this.grid.replaceChildren(...this.frames);
    this.turn.pictures.forEach((url, i) => { if (url) this.finish(i, url); });
  }

  begin() {
    this.body.setAttribute("aria-busy", "true");
    this.grid.hidden = this.bar.hidden = false;
    this.bar.value = 0;
    this.setFrames();
    this.trouble.replaceChildren();
    this.foot.replaceChildren();
  }

  partial({ image_index: i, b64_json, progress }) {
    const frame = this.frames[i];
    if (!frame.firstChild) frame.append(picture("", ""));
    frame.setAttribute("aria-label", `Picture ${i + 1}, unfinished`);
    frame.firstChild.src = `data:image/png;base64,${b64_json}`;
    this.bar.value = progress;
  }

  finish(i, url) {
    const { turn, actions } = this;
    const { prompt, n } = turn.drawing;
    const title = n === 1 ? prompt : `${prompt}, picture ${i + 1}`;
    const save = drawingName(turn.drawing, i);
    const enlarge = () => {
      const all = turn.pictures.map((one, k) => one && { url: one, title: prompt, file: `${drawingName(turn.drawing, k)}.png` });
      actions.enlarge(all.filter(Boolean), all.slice(0, i).filter(Boolean).length);
    };
    this.frames[i].removeAttribute("role");
    this.frames[i].removeAttribute("aria-label");
    this.frames[i].classList.remove("left");
    this.frames[i].replaceChildren(
      make("button", { type: "button", className: "picture", title: "Enlarge", onclick: enlarge }, picture(url, title)),
      make("button", { type: "button", className: "over", "aria-label": `Ask about picture ${i + 1}`, onclick: () => actions.askAbout({ url, name: prompt }) }, "Ask about it"),
      ...(actions.canChange() ? [make("button", { type: "button", className: "over change", "aria-label": `Change picture ${i + 1}`, onclick: () => actions.change({ url, name: prompt }) }, "Change it")] : []),
      make("a", { href: url, download: `${save}.png`, className: "save", title: "Download, settings included", "aria-label": `Download picture ${i + 1}` }, "↓"));
    this.bar.value = 1;
  }

  end() {
    const { turn, actions } = this;
    this.body.setAttribute("aria-busy", "false");
    this.bar.hidden = true;
    for (const frame of this.frames) frame.classList.toggle("left", !frame.querySelector(".picture"));
    this.grid.hidden = !this.grid.querySelector("img");
    this.showTrouble();
    this.foot.replaceChildren();
    if (turn.problem) return;
    const { prompt, n, seed, guidance_scale, temperature } = turn.drawing;
    const facts = make("span", { className: "note facts" }, [`seed ${seed}`, `guidance ${guidance_scale}`, `temperature ${temperature}`, turn.note].filter(Boolean).join(" · "));
    const ask = looksLikeQuestion(prompt) && idle("Ask this", () => actions.ask(prompt));
    const all = n > 1 && this.done && button("Save all", () => actions.saveAll(turn));
    this.foot.append(...[facts, ask, all, idle("Same seed again", () => actions.drawAgain(turn.drawing, turn.sources)),
      idle("New seed", () => actions.drawAgain({ ...turn.drawing, seed: null }, turn.sources)), ...this.more(idle("Edit words", () => actions.edit(turn)))].filter(Boolean));
  }

  // Sizes the pictures so that all of them are in view at once; width and height are what there is for them.
  fit(width, height) {
    const isBusy = this.body.getAttribute("aria-busy") === "true";
    if (!isBusy && this.width === width) return; // a finished drawing does not jump while the form below it grows
    this.width = isBusy ? null : width;
    const { columns, side, gap } = columnsFor(this.frames.length, width, height, isBusy ? 24 : 64);
    this.grid.style.gap = `${gap}px`;
    this.grid.style.gridTemplateColumns = `repeat(${columns}, ${side}px)`;
    this.grid.classList.toggle("small", side < 120);
  }
}

export const viewOf = (turn, actions) => new (turn.kind === "ask" ? AskView : DrawView)(turn, actions);

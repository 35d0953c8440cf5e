// What stands in the conversation: turns of the user, answers, drawings. Builds DOM; knows no server.

import { render } from "./markdown.js";
import { fileName } from "./pictures.js";

export function make(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

export const button = (text, onclick, className = "quiet") => make("button", { type: "button", className, onclick }, text);

// Small pictures are enlarged with hard edges; large ones are scaled softly.
function picture(url, alt) {
  const img = make("img", { src: url, alt, decoding: "async" });
  img.addEventListener("load", () => img.classList.toggle("crisp", img.naturalWidth < 200));
  return img;
}

export function userTurn(words, pictures, isDrawing) {
  const turn = make("li", { className: `turn mine ${isDrawing ? "draw" : "ask"}` });
  turn.append(make("span", { className: "unseen" }, isDrawing ? "You asked to draw: " : "You asked: "));
  if (pictures.length) {
    turn.append(make("div", { className: "seen" }, ...pictures.map(({ url, name }) => picture(url, name))));
  }
  if (words) turn.append(make("p", {}, words));
  return turn;
}

export class AnswerTurn {
  constructor() {
    this.text = "";
    this.body = make("div", { className: "said" }, make("span", { className: "waiting", "aria-label": "thinking" }));
    this.foot = make("div", { className: "foot" });
    this.node = make("li", { className: "turn answer", "aria-busy": "true" }, this.body, this.foot);
    this.isDue = false;
  }

  add(piece) {
    this.text += piece;
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => this.show());
  }

  show() {
    this.isDue = false;
    this.body.replaceChildren(...render(this.text));
  }

  end(note, ...actions) {
    this.show();
    this.node.setAttribute("aria-busy", "false");
    if (!this.text) this.body.replaceChildren(make("p", { className: "nothing" }, note ? "" : "(no words)"));
    this.foot.replaceChildren(...(note ? [make("span", { className: "note" }, note)] : []), ...actions);
  }
}

export class DrawingTurn {
  // about(url): the user wants to ask about a finished picture.
  constructor(drawing, about) {
    this.drawing = drawing;
    this.about = about;
    this.grid = make("div", { className: "drawings" });
    this.frames = Array.from({ length: drawing.n }, (_, i) => make("figure", { className: "frame", "aria-label": `Picture ${i + 1}, being drawn` }));
    this.grid.append(...this.frames);
    this.bar = make("progress", { max: 1, value: 0, "aria-label": "Drawing" });
    const { seed, guidance_scale, temperature } = drawing;
    this.facts = make("span", { className: "note" }, `seed ${seed} · guidance ${guidance_scale} · temperature ${temperature}`);
    this.foot = make("div", { className: "foot" }, this.facts);
    this.node = make("li", { className: "turn drawing", "aria-busy": "true" }, this.grid, this.bar, this.foot);
    this.done = 0;
  }

  partial({ image_index, b64_json, progress }) {
    const frame = this.frames[image_index];
    if (!frame.firstChild) frame.append(picture("", `Picture ${image_index + 1} of “${this.drawing.prompt}”, unfinished`));
    frame.firstChild.src = `data:image/png;base64,${b64_json}`;
    this.bar.value = progress;
  }

  finish({ image_index, b64_json }) {
    const { prompt, seed } = this.drawing;
    const url = `data:image/png;base64,${b64_json}`;
    const name = fileName(prompt, seed, image_index);
    const ask = make("button", { type: "button", className: "picture", title: "Ask about this picture", onclick: () => this.about({ url, name: prompt }) },
      picture(url, `${prompt}, picture ${image_index + 1}`), make("span", { className: "over" }, "Ask about it"));
    const save = make("a", { href: url, download: name, className: "save", title: "Download, settings included", "aria-label": `Download picture ${image_index + 1}` }, "↓");
    this.frames[image_index].replaceChildren(ask, save);
    this.frames[image_index].removeAttribute("aria-label");
    this.done++;
    this.bar.value = 1;
  }

  end(note, ...actions) {
    this.bar.remove();
    this.node.setAttribute("aria-busy", "false");
    for (const frame of this.frames) if (!frame.querySelector(".picture")) frame.classList.add("left");
    if (note) this.facts.textContent += ` · ${note}`;
    this.foot.append(...actions);
  }
}

export function problem(message, ...actions) {
  return make("li", { className: "turn problem", role: "alert" }, make("p", {}, message), make("div", { className: "foot" }, ...actions));
}

// What a newcomer sees: suggestions with the pictures that belong to them, and what the model knows.

import { $, button, make } from "./dom.js";
import { bundled } from "./pictures.js";

const QUESTIONS = [
  { picture: "cat-and-balloon.png", shows: "a cat and a red balloon", words: "what color is the balloon?" },
  { picture: "three-stars.png", shows: "three yellow stars", words: "how many stars are there?" },
];
const DRAWINGS = ["two red apples", "a blue car", "a yellow star above a green tree", "three pink hearts"];

// ask(words, picture) and draw(words) put a suggestion into the form.
export function showSuggestions(ask, draw) {
  const questions = QUESTIONS.map(({ picture, shows, words }) => make("li", {}, make("button",
    { type: "button", className: "idea with-picture", onclick: async () => ask(words, { ...await bundled(picture), name: shows }) },
    make("img", { src: `/page/pictures/${picture}`, alt: `Picture of ${shows}.`, width: 72, height: 72 }), make("span", {}, words))));
  const drawings = DRAWINGS.map((words) => make("li", {}, button(words, () => draw(words), { className: "idea" })));
  $("ask-ideas").replaceChildren(...questions);
  $("draw-ideas").replaceChildren(...drawings);
}

// about: { description, words: { kind: [word, ...] } }, or null where the model says nothing of itself.
export function showAbout(name, about) {
  $("knows").hidden = $("about-open").hidden = $("menu-about").hidden = !about;
  if (!about) return;
  $("knows").textContent = about.description;
  $("about-title").textContent = `What ${name} knows`;
  $("about-words").replaceChildren(make("p", {}, about.description), ...Object.entries(about.words).flatMap(([kind, words]) =>
    [make("h3", {}, kind), make("p", { className: "known" }, words.join(", "))]));
}

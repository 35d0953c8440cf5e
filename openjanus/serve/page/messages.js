// What the page tells: a quiet line under the form, and a notice above it for what the user must not miss.

import { $, button, make } from "./dom.js";

export function tell(words, ...buttons) {
  $("status").replaceChildren(words, ...buttons);
}

export function notice(words, ...buttons) {
  $("notice").replaceChildren(...(words ? [make("p", {}, words), make("div", { className: "foot" }, ...buttons, button("Dismiss", () => { notice(""); $("words").focus(); }))] : []));
}

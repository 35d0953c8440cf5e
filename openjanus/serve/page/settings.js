// The menu's settings: colours and the API key.

import { key } from "./api.js";
import { $ } from "./dom.js";

const THEMES = { auto: "as the system", light: "light", dark: "dark" };

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme; else document.documentElement.dataset.theme = theme;
  try { localStorage.setItem("theme", theme); } catch { /* storage is off */ }
  $("theme").textContent = `Colours: ${THEMES[theme]}`;
}

const theme = () => document.documentElement.dataset.theme ?? "auto";

function nextTheme() {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(theme()) + 1) % names.length]);
}

let afterKey = null; // what waits for a key

// Asks for a key; `then` is done once the server takes it. said: what was wrong with the last one.
export function openKey(then = afterKey, said = "") {
  afterKey = then;
  $("key").value = key.get();
  $("key-wrong").textContent = said;
  if (!$("key-dialog").open) $("key-dialog").showModal();
}

// tryKey(): whether the server takes it. cancelled(): the user gives none.
export function setUp(tryKey, cancelled) {
  $("theme").addEventListener("click", nextTheme);
  setTheme(theme());
  $("key-cancel").addEventListener("click", () => $("key-dialog").close("cancel"));
  $("key-dialog").addEventListener("close", async () => {
    const given = $("key").value.trim();
    $("key").value = "";
    if ($("key-dialog").returnValue !== "keep") return cancelled();
    key.set(given);
    if (!await tryKey()) return;
    const then = afterKey;
    afterKey = null;
    then?.();
  });
}

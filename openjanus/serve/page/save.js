// What leaves the page: downloads and the clipboard.

import { bytesOf, drawingName, extensionOf, pngOf } from "./pictures.js";
import { zip } from "./zip.js";

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export function savePicture(url, name) {
  download(new Blob([bytesOf(url)]), name);
}

const filesOf = ({ drawing, pictures }, folder = "") => pictures.flatMap((url, i) =>
  url ? [{ name: `${folder}${drawingName(drawing, i)}.png`, bytes: bytesOf(url) }] : []);

export function saveDrawing(turn) {
  download(zip(filesOf(turn)), `${drawingName(turn.drawing)}.zip`);
}

// The whole conversation: a Markdown file, and its pictures beside it.
export function saveConversation(turns, model) {
  const files = [];
  const lines = [`# Conversation with ${model}`];
  const shown = (names) => names.map((name) => `![](<${name}>)`).join(" ");
  turns.forEach((turn, index) => {
    const folder = `pictures/${String(index + 1).padStart(3, "0")}-`;
    if (turn.kind === "draw") {
      const drawn = filesOf(turn, folder);
      files.push(...drawn);
      const { prompt, seed, guidance_scale, temperature } = turn.drawing;
      lines.push(`**Draw:** ${prompt}`, `seed ${seed}, guidance ${guidance_scale}, temperature ${temperature}`, shown(drawn.map(({ name }) => name)));
    } else {
      const given = turn.pictures.map(({ url }, i) => ({ name: `${folder}${i + 1}.${extensionOf(url)}`, bytes: bytesOf(url) }));
      files.push(...given);
      lines.push(`**Question:** ${turn.words}`, shown(given.map(({ name }) => name)), turn.answer);
    }
    if (turn.note || turn.problem) lines.push(`(${turn.problem?.message ?? turn.note})`);
  });
  const text = `${lines.filter(Boolean).join("\n\n")}\n`;
  const day = new Date().toISOString().slice(0, 10);
  download(zip([{ name: "conversation.md", bytes: new TextEncoder().encode(text) }, ...files]), `openjanus-${day}.zip`);
}

// Outside of https and localhost there is no clipboard API, but a selection can still be copied.
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea");
  const focused = document.activeElement;
  field.value = text;
  field.className = "unseen";
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  if (!isCopied) throw new Error("the browser does not allow it");
}

export const canCopyPictures = () => Boolean(navigator.clipboard?.write && globalThis.ClipboardItem);

export const copyPicture = (url) => navigator.clipboard.write([new ClipboardItem({ "image/png": pngOf(url) })]);

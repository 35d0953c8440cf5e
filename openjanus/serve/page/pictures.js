// Pictures as data URLs: those that the user gives (files, clipboard, drop), and what can be done with one.

const MAX_SIDE = 1024;
const MAX_BYTES = 1_500_000;
const KEEP = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]);

const asUrl = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(blob);
});

function painted(image, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  const paint = canvas.getContext("2d");
  paint.imageSmoothingQuality = "high";
  paint.fillStyle = "#fff";
  paint.fillRect(0, 0, canvas.width, canvas.height);
  paint.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}

// Small pictures go as they are; large ones, and formats that the server does not read, are drawn again.
async function readable(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  if (KEEP.has(file.type) && file.size <= MAX_BYTES && scale === 1) return asUrl(file);
  return painted(bitmap, bitmap.width * scale, bitmap.height * scale).toDataURL("image/jpeg", 0.92);
}

// { pictures: [{ url, name }], failed: [names of files that are no pictures] }
export async function read(files) {
  const pictures = [];
  const failed = [];
  for (const file of files) {
    try { pictures.push({ url: await readable(file), name: file.name || "picture" }); } catch { failed.push(file.name || "a file"); }
  }
  return { pictures, failed };
}

// One of the pictures that come with the page.
export async function bundled(name) {
  const answer = await fetch(`/page/pictures/${name}`);
  if (!answer.ok) throw new Error(`no picture ${name}`);
  return { url: await asUrl(await answer.blob()), name };
}

export const bytesOf = (url) => Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (char) => char.charCodeAt(0));

const typeOf = (url) => url.slice(5, url.indexOf(";"));

// As a PNG, the one format that every clipboard takes.
export async function pngOf(url) {
  if (typeOf(url) === "image/png") return new Blob([bytesOf(url)], { type: "image/png" });
  const image = new Image();
  image.src = url;
  await image.decode();
  return new Promise((resolve) => painted(image, image.naturalWidth, image.naturalHeight).toBlob(resolve, "image/png"));
}

// The words of a prompt as a file name, in any script, as the command line names its files.
const slug = (words) => {
  const joined = words.toLowerCase().normalize("NFC").split(/[^\p{L}\p{N}\p{M}]+/u).filter(Boolean).join("-");
  return [...joined].slice(0, 60).join("").replace(/-$/, "") || "drawing";
};

export const drawingName = ({ prompt, seed }, index = null) => `${slug(prompt)}-seed${seed}${index === null ? "" : `-${index}`}`;

export const extensionOf = (url) => ({ "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif" })[typeOf(url)] ?? "png";

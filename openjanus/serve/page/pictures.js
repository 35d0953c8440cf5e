// Pictures that the user gives: from files, the clipboard or a drop, as data URLs that the server reads.

const MAX_SIDE = 1024;
const MAX_BYTES = 1_500_000;
const KEEP = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]);

const asUrl = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(blob);
});

// Small pictures go as they are; large ones, and formats that the server does not read, are drawn again.
async function readable(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, MAX_SIDE / Math.max(bitmap.width, bitmap.height));
  if (KEEP.has(file.type) && file.size <= MAX_BYTES && scale === 1) return asUrl(file);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const paint = canvas.getContext("2d");
  paint.fillStyle = "#fff";
  paint.fillRect(0, 0, canvas.width, canvas.height);
  paint.imageSmoothingQuality = "high";
  paint.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", 0.92);
}

// { pictures: [{ url, name }], failed: how many were none }
export async function read(files) {
  const pictures = [];
  let failed = 0;
  for (const file of files) {
    try { pictures.push({ url: await readable(file), name: file.name || "picture" }); } catch { failed++; }
  }
  return { pictures, failed };
}

export const imagesOf = (transfer) => [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));

export const fileName = (prompt, seed, index) => {
  const words = prompt.toLowerCase().normalize("NFC").split(/[^\p{L}\p{N}\p{M}]+/u).filter(Boolean).join("-");
  const slug = [...words].slice(0, 60).join("").replace(/-$/, "") || "drawing";
  return `${slug}-seed${seed}-${index}.png`;
};

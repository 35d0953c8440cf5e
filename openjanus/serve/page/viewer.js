// One picture as large as the window: before and next by arrow keys, ask, copy, save.

import { $ } from "./dom.js";
import { canCopyPictures, copyPicture, savePicture } from "./save.js";

let pictures = [];
let at = 0;

function show(index) {
  at = (index + pictures.length) % pictures.length;
  const { url, title } = pictures[at];
  $("viewer-picture").src = url;
  $("viewer-picture").alt = title;
  $("viewer-title").textContent = pictures.length === 1 ? title : `${title} (${at + 1} of ${pictures.length})`;
}

// list: [{ url, title, file }]
export function enlarge(list, index) {
  pictures = list;
  for (const id of ["viewer-before", "viewer-next"]) $(id).hidden = list.length === 1;
  $("viewer-copy").hidden = !canCopyPictures();
  $("viewer-told").textContent = "";
  show(index);
  $("viewer").showModal();
}

export function setUp(askAbout) {
  const viewer = $("viewer");
  const image = $("viewer-picture");
  image.addEventListener("load", () => image.classList.toggle("crisp", image.naturalWidth < 200));
  $("viewer-before").addEventListener("click", () => show(at - 1));
  $("viewer-next").addEventListener("click", () => show(at + 1));
  $("viewer-close").addEventListener("click", () => viewer.close());
  $("viewer-save").addEventListener("click", () => savePicture(pictures[at].url, pictures[at].file));
  $("viewer-ask").addEventListener("click", () => { viewer.close(); askAbout({ url: pictures[at].url, name: pictures[at].title }); });
  $("viewer-copy").addEventListener("click", async () => {
    try { await copyPicture(pictures[at].url); $("viewer-told").textContent = "Copied"; } catch { $("viewer-told").textContent = "The browser does not allow it"; }
  });
  viewer.addEventListener("keydown", ({ key }) => {
    if (key === "ArrowLeft") show(at - 1);
    if (key === "ArrowRight") show(at + 1);
  });
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
}

// Hints for somebody who types under the wrong mode, asks before there is a picture, or for what the model cannot know.

const POLITE = String.raw`(?:(?:please|can you|could you|would you|i want you to|i'd like you to)\s+)*`;
const PICTURE = "(?:picture|image|drawing|photo|painting|sketch)";
const DRAW = new RegExp(String.raw`^${POLITE}(?:draw|paint|sketch|illustrate|generate|render)\b`, "i");
const MAKE = new RegExp(String.raw`^${POLITE}(?:(?:make|create|show|give)\s+(?:me\s+)?|i want to see\s+)?(?:an?\s+)?(?:\w+\s+)?${PICTURE}\s+of\b`, "i");
const CAPTION = /^(?:an?|one|two|three|four|some|\d+)\s+\w/i;
const QUESTION = /^(?:what|which|who|whose|where|when|why|how|is|are|was|were|does|do|did|has|have|can|could|count|name|tell|describe|explain)\b/i;

export const looksLikeDrawing = (words) => DRAW.test(words) || MAKE.test(words);

export const looksLikeQuestion = (words) => !looksLikeDrawing(words) && (QUESTION.test(words) || words.endsWith("?"));

// The singular and the plural of an English noun begin alike.
const stem = (thing) => thing.replace(/(?:y|f|us)$/, "");

export function knowsNoneOf(words, about) {
  const things = Object.entries(about?.words ?? {}).filter(([kind]) => kind.includes("things")).flatMap(([, names]) => names);
  const said = words.toLowerCase().match(/\p{L}+/gu) ?? [];
  return things.length > 0 && said.length > 0 && !said.some((word) => things.some((thing) => word.startsWith(stem(thing))));
}

// { text, label, act } or null. hasPicture: attached, or in the conversation already. act: "ask", "draw", "choose", "about".
export function hintFor({ mode, words, attached, hasPicture, about, edits }) {
  if (mode === "ask") {
    if (looksLikeDrawing(words)) return { text: "This reads like words for a drawing.", label: "Switch to Draw", act: "draw" };
    if (hasPicture || !words) return null;
    if (CAPTION.test(words) && !looksLikeQuestion(words)) return { text: "To have this drawn, choose Draw.", label: "Switch to Draw", act: "draw" };
    if (about && looksLikeQuestion(words)) return { text: "This model answers about pictures, and there is none yet.", label: "Add picture", act: "choose" };
    return null;
  }
  if (looksLikeQuestion(words)) return { text: "This reads like a question.", label: "Switch to Ask", act: "ask" };
  if (attached && edits) return null;
  if (attached) return { text: "Pictures go with questions only.", label: "Switch to Ask", act: "ask" };
  if (knowsNoneOf(words, about)) return { text: "This model does not know such a thing.", label: "What it knows", act: "about" };
  return null;
}

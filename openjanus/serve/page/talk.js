// Turns as plain data, and what of them is sent to the model. Knows neither the page nor the server.
//
//   { id, kind: "ask", words, pictures: [{ url, name }], answer, note, problem }
//   { id, kind: "draw", drawing: { prompt, n, seed, guidance_scale, temperature }, sources: [{ url, name }],
//     pictures: [url or null], note, problem }
//
// sources: pictures that the drawing changes; none for a drawing from words alone.
// problem: { message, status, code } of what went wrong, or null.

const MAX_TURNS = 200; // the server reads at most 1,024 messages

let lastId = 0;
const newId = () => (lastId = Math.max(lastId + 1, Date.now()));

export const askTurn = (words, pictures) => ({ id: newId(), kind: "ask", words, pictures, answer: "", note: "", problem: null });

export const drawTurn = (drawing, sources) => ({ id: newId(), kind: "draw", drawing, sources, pictures: Array(drawing.n).fill(null), note: "", problem: null });

// Where a drawing is asked for, and the body of the request.
export function drawingRequest({ drawing, sources = [] }) {
  if (!sources.length) return ["/v1/images/generations", drawing];
  return ["/v1/images/edits", { ...drawing, images: sources.map(({ url }) => ({ image_url: url })) }];
}

function questionMessage(words, pictures) {
  const parts = pictures.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  return { role: "user", content: words ? [...parts, { type: "text", text: words }] : parts };
}

const messages = (turns, turn) => [
  ...turns.flatMap(({ words, pictures, answer }) => [questionMessage(words, pictures), { role: "assistant", content: answer }]),
  questionMessage(turn.words, turn.pictures),
];

const isAnswered = (turn) => turn.kind === "ask" && turn.answer && !turn.problem;

// The answered questions that go to the model with this one: from the newest picture on, because earlier ones mislead
// it; all of them where there is no picture. A question without an answer is never among them.
export function contextOf(turns, turn) {
  if (turn.pictures.length) return [];
  const before = turns.slice(0, turns.indexOf(turn)).filter(isAnswered);
  return before.slice(Math.max(0, before.findLastIndex(({ pictures }) => pictures.length)));
}

// Ever shorter lists of messages for one question, to be tried one after the other until one fits the model. The
// picture stays: first the questions after it are left out, oldest first, then those that came with it.
export function* attempts(turns, turn) {
  const context = contextOf(turns, turn);
  const head = context[0]?.pictures.length ? context.slice(0, 1) : [];
  const rest = context.slice(head.length);
  let kept = rest.length;
  if (kept <= MAX_TURNS) yield messages(context, turn);
  while (kept > 0) {
    kept = Math.min(MAX_TURNS, Math.floor(kept / 2));
    yield messages([...head, ...rest.slice(rest.length - kept)], turn);
  }
  if (head.length) yield messages([], { words: turn.words, pictures: head[0].pictures });
}

// The later questions that were asked with this one in mind: up to the next one with a picture of its own.
export function followers(turns, turn) {
  const later = turns.slice(turns.indexOf(turn) + 1).filter(({ kind }) => kind === "ask");
  const end = later.findIndex(({ pictures }) => pictures.length);
  return turn.kind === "ask" ? later.slice(0, end < 0 ? later.length : end) : [];
}

// Whether the model has a picture in sight when the next question carries none.
export const hasPicture = (turns) => turns.some((turn) => isAnswered(turn) && turn.pictures.length);

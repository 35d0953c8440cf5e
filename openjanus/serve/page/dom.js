// Small helpers to build DOM nodes. Text always becomes a text node.

export const $ = (id) => document.getElementById(id);

export function make(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

export const button = (text, onclick, properties = {}) => make("button", { type: "button", className: "quiet", onclick, ...properties }, text);

// "one", "one and two", "one, two and three"
export const listed = (names) => names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;

export const counted = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

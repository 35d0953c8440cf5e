// Text of a model as DOM nodes: a small, safe part of Markdown. Every word goes through a text node, never through
// innerHTML; pictures are not loaded, and a link needs http(s) and a click.

const INLINE = /(`+)([^`]|[^`][^]*?[^`])\1(?!`)|\*\*([^\s*](?:[^*]*[^\s*])?)\*\*|\*([^\s*](?:[^*]*[^\s*])?)\*|\[([^\]\n]+)\]\((https?:\/\/[^\s()]+)\)/g;

function element(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

function inline(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    nodes.push(text.slice(end, match.index));
    end = match.index + match[0].length;
    if (match[2] !== undefined) nodes.push(element("code", match[2].trim() || match[2]));
    else if (match[3] !== undefined) nodes.push(element("strong", ...inline(match[3])));
    else if (match[4] !== undefined) nodes.push(element("em", ...inline(match[4])));
    else {
      const link = element("a", match[5]);
      link.href = match[6];
      link.rel = "noopener noreferrer nofollow";
      link.target = "_blank";
      nodes.push(link);
    }
  }
  nodes.push(text.slice(end));
  return nodes;
}

const ITEM = /^\s{0,3}(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;

// The nodes of a text; it may still be growing, so an open code fence is code.
export function render(text) {
  const nodes = [];
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  let paragraph = [];
  const flush = () => {
    if (!paragraph.length) return;
    const p = document.createElement("p");
    paragraph.forEach((line, i) => p.append(...(i ? [document.createElement("br")] : []), ...inline(line)));
    nodes.push(p);
    paragraph = [];
  };
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i];
    const fence = line.match(/^\s{0,3}(```+|~~~+)/);
    const heading = line.match(/^(#{1,6})\s+(.*?)\s*#*$/);
    const item = line.match(ITEM);
    if (fence) {
      flush();
      const code = [];
      while (++i < lines.length && !lines[i].trim().startsWith(fence[1])) code.push(lines[i]);
      nodes.push(element("pre", element("code", code.join("\n"))));
    } else if (heading) {
      flush();
      nodes.push(element("h3", ...inline(heading[2])));
    } else if (item) {
      flush();
      const list = document.createElement(item[1] ? "ul" : "ol");
      if (item[2]) list.start = Number(item[2]);
      for (let m = item; m && Boolean(m[1]) === Boolean(item[1]); m = (lines[++i] ?? "").match(ITEM)) list.append(element("li", ...inline(m[3])));
      i--;
      nodes.push(list);
    } else if (line.trim() === "") flush();
    else paragraph.push(line);
  }
  flush();
  return nodes;
}

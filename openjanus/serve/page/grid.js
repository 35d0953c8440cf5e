// How many columns make n squares largest in a box, and how large that is. Rows that are nearly empty look bad, so they
// count against a layout. A square has at least `least` px, even if the rows then need more height than there is.

const MOST = 256;

export function columnsFor(n, width, height, least) {
  let best = null;
  for (let columns = 1; columns <= n; columns++) {
    const rows = Math.ceil(n / columns);
    const gap = width / columns < 90 ? 5 : 12;
    const wide = Math.min(MOST, (width - gap * (columns - 1)) / columns);
    const side = Math.max(1, Math.floor(Math.min(wide, Math.max(least, (height - gap * (rows - 1)) / rows))));
    const score = side * Math.sqrt(n / (rows * columns));
    if (!best || (wide >= least && score >= best.score)) best = { columns, side, gap, score };
  }
  return best;
}

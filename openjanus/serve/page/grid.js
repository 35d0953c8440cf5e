// How many columns n squares take in a box, and how large they are: about as large as they can be while all are in view.
// Of layouts that are nearly as good the lowest is taken; rows that are nearly empty count against a layout. A square has
// at least `least` px, even if the rows then need more height than there is.

const MOST = 256;
const NEARLY = 0.8;

function layout(n, columns, width, height, least) {
  const rows = Math.ceil(n / columns);
  const gap = width / columns < 90 ? 5 : 12;
  const wide = Math.min(MOST, (width - gap * (columns - 1)) / columns);
  const side = Math.max(1, Math.floor(Math.min(wide, Math.max(least, (height - gap * (rows - 1)) / rows))));
  return { columns, gap, side, score: side * n / (rows * columns), isWideEnough: columns === 1 || wide >= least };
}

export function columnsFor(n, width, height, least) {
  const layouts = Array.from({ length: n }, (_, i) => layout(n, i + 1, width, height, least)).filter((one) => one.isWideEnough);
  const best = Math.max(...layouts.map(({ score }) => score));
  return layouts.findLast(({ score }) => score >= NEARLY * best);
}

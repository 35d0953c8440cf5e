// The conversation in this browser's IndexedDB: one record a turn, in the order of their ids. Pictures are data URLs, so
// the size is bounded: over the bound, or when the browser's own is reached, the oldest turns are forgotten.

export const MAX_CHARS = 50_000_000;
const TURNS = "turns";
const sizes = new Map(); // id -> characters
let database = null;
let last = Promise.resolve(); // one write after the other

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("openjanus", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TURNS, { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("blocked"));
  });
}

async function transact(mode, work) {
  database ??= await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(TURNS, mode);
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
    try {
      const request = work(transaction.objectStore(TURNS));
      transaction.oncomplete = () => resolve(request?.result);
    } catch (error) {
      reject(error);
      transaction.abort();
    }
  });
}

function after(work) {
  const next = last.then(work);
  last = next.catch(() => {});
  return next;
}

const sizeOf = (turn) => JSON.stringify(turn).length;

// All turns, oldest first. Rejects where the browser keeps nothing.
export const load = () => after(async () => {
  const turns = await transact("readonly", (store) => store.getAll());
  for (const turn of turns) sizes.set(turn.id, sizeOf(turn));
  return turns;
});

// Writes turns in one transaction, so that none is kept without the others, and forgets the oldest others that have no
// room any more. Resolves to how many; rejects if not even these turns can be kept. The records are taken at once: later
// changes of `turns` do not count.
export function keep(turns) {
  const records = structuredClone(turns);
  return after(async () => {
    let forgotten = 0;
    const size = records.reduce((sum, record) => sum + sizeOf(record), 0);
    if (size > MAX_CHARS) throw new Error("too large");
    for (const { id } of records) sizes.delete(id);
    for (;;) {
      const oldest = Math.min(...sizes.keys());
      const total = [...sizes.values()].reduce((sum, one) => sum + one, size);
      if (total <= MAX_CHARS) {
        try {
          await transact("readwrite", (store) => { for (const record of records) store.put(record); });
          for (const record of records) sizes.set(record.id, sizeOf(record));
          return forgotten;
        } catch (error) {
          if (error?.name !== "QuotaExceededError" || !sizes.size) throw error;
        }
      }
      await transact("readwrite", (store) => store.delete(oldest));
      sizes.delete(oldest);
      forgotten++;
    }
  });
}

export const forget = (turns) => after(async () => {
  await transact("readwrite", (store) => { for (const { id } of turns) store.delete(id); });
  for (const { id } of turns) sizes.delete(id);
});

export const forgetAll = () => after(async () => {
  await transact("readwrite", (store) => { store.clear(); });
  sizes.clear();
});

// Resolves when all that was asked for so far is written.
export const settled = () => last;

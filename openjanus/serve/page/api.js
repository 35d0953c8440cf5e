// The server's API: plain fetch, and server-sent events from a POST.

const KEY = "openjanus-key";

export const key = {
  get: () => { try { return sessionStorage.getItem(KEY) ?? ""; } catch { return ""; } },
  set: (value) => { try { value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY); } catch { /* off */ } },
};

export class ApiError extends Error {
  constructor(status, body, retryAfter) {
    super(body?.error?.message ?? (status ? `the server answered ${status}` : "the server cannot be reached"));
    this.status = status;
    this.code = body?.error?.code ?? null;
    this.retryAfter = Number(retryAfter) || 0;
  }
}

async function request(path, body, signal) {
  const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, null);
  }
  if (!answer.ok) throw new ApiError(answer.status, await answer.json().catch(() => null), answer.headers.get("Retry-After"));
  return answer;
}

export const models = async () => (await (await request("/v1/models")).json()).data;

// Yields each event's JSON. A stream that breaks off is an error, not an end; an answer ends with [DONE], a drawing does
// not say that it ends.
export async function* events(path, body, signal) {
  const saysDone = path === "/v1/chat/completions";
  const answer = await request(path, { ...body, stream: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done && saysDone) throw new Error("no [DONE]");
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(500, event);
        yield event;
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ApiError) throw error;
    throw new ApiError(0, { error: { message: "the connection broke off" } });
  } finally {
    reader.cancel().catch(() => {});
  }
}

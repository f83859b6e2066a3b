// Talking to the server: reading, and an outbox that does not lose a decision.

export class ApiError extends Error {
  constructor(status, body) {
    super(body.error || `the server answered ${status}`);
    this.status = status;
    this.body = body;
    this.hint = body.hint || "";
  }
}

async function checked(response) {
  if (response.ok) return response;
  let body = {};
  try {
    body = await response.json();
  } catch {
    // Not our server's words; the status says enough.
  }
  throw new ApiError(response.status, body);
}

export async function getJson(path) {
  return (await checked(await fetch(path, { headers: { Accept: "application/json" } }))).json();
}

export async function getPixels(path) {
  const response = await checked(await fetch(path));
  return new Uint16Array(littleEndian(await response.arrayBuffer()));
}

function littleEndian(buffer) {
  if (new Uint8Array(Uint16Array.of(1).buffer)[0] === 1) return buffer;
  const bytes = new Uint8Array(buffer);
  for (let i = 0; i + 1 < bytes.length; i += 2) {
    [bytes[i], bytes[i + 1]] = [bytes[i + 1], bytes[i]];
  }
  return buffer;
}

export async function post(path, document) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify(document),
    // The browser finishes sending when the tab is closed at this moment.
    keepalive: true,
  });
  return (await checked(response)).json();
}

// crypto.randomUUID exists on loopback and https only; --allow-remote is neither.
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

// Storage may be off or full: then nothing is remembered, and nothing else breaks.
export function remember(key, value, storage = "localStorage") {
  try {
    if (value === null) window[storage].removeItem(key);
    else window[storage].setItem(key, JSON.stringify(value));
  } catch {
    return;
  }
}

export function recall(key, fallback, storage = "localStorage") {
  try {
    return JSON.parse(window[storage].getItem(key)) ?? fallback;
  } catch {
    return fallback;
  }
}

// Decisions on their way. Each stays in the browser's storage until the server has it on disk; a
// retry carries the same submission_id, so that it can not count twice.
export class Outbox {
  constructor(key, { saved, refused, waiting }) {
    this.key = key;
    this.on = { saved, refused, waiting };
    this.pending = recall(key, []);
    this.running = null;
  }

  add(submission) {
    this.pending.push(submission);
    remember(this.key, this.pending);
    return this.flush();
  }

  get size() {
    return this.pending.length;
  }

  flush() {
    this.running ??= this.#run().finally(() => {
      this.running = null;
    });
    return this.running;
  }

  async #run() {
    let pause = 500;
    while (this.pending.length) {
      const submission = this.pending[0];
      try {
        const event = await post("/api/decision", submission);
        this.#drop();
        this.on.saved(event, submission);
        pause = 500;
      } catch (error) {
        if (error instanceof ApiError && error.status < 500 && error.status !== 401 && !error.body.other_run) {
          this.#drop();
          this.on.refused(error, submission);
          continue;
        }
        this.on.waiting(error, submission);
        await new Promise((resolve) => setTimeout(resolve, pause));
        pause = Math.min(pause * 2, 8000);
      }
    }
  }

  #drop() {
    this.pending.shift();
    remember(this.key, this.pending.length ? this.pending : null);
  }
}

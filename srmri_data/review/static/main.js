// The review page: one item at a time, what is shown of it, and what is decided.

import { ApiError, Outbox, getJson, post, recall, remember, uuid } from "./api.js";
import { drawCurve, drawScores } from "./charts.js";
import { ImageCache, highKey, lowKey } from "./images.js";
import { ACTIONS, Keys, shortName } from "./keys.js";
import { Viewer } from "./viewer.js";

const BLINK_MS = 400; // one change: 1.25 flashes a second, well below the 3 that can harm
const PREFETCHED_ITEMS = 2;
const VIEW_NAMES = {
  single: "Single", blink: "Blink", swipe: "Swipe", checker: "Checker",
  difference: "Difference", edges: "Edges", opacity: "Blend", side: "Side by side",
};

const $ = (selector) => document.querySelector(selector);
const $$ = (selector) => [...document.querySelectorAll(selector)];
const reducedMotion = window.matchMedia("(prefers-reduced-motion: reduce)");

let about; // of the run
let viewer;
let keys;
let outbox;
let reviewer = "";
let queue = []; // LR slices, in the order of review
let undoable = null;
let redoable = null;
let current = null; // the item on screen
let loading = false; // the next item is on its way: what is on screen can not be decided any more
let heading = null; // the item that is on screen or on its way there
let opening = 0; // counts calls of open(), so that a slow one knows it is outdated
let matched = false;
let holding = false;
let blinkLow = false;
let blinkTimer = 0;

const states = new Map(); // lr_slice -> the reviewer's own state
const facts = new Map(); // lr_slice -> promise of what is known about the item
const drafts = new Map(); // lr_slice -> {note, confidence} that was not sent yet
const images = new ImageCache();
const spent = []; // milliseconds per item decided in this sitting

// -- small things -------------------------------------------------------------

function say(text, kind = "") {
  $("#status").textContent = text;
  $("#status").className = kind;
}

function choiceName(choice) {
  if (choice === null || choice === undefined) return "no answer";
  return typeof choice === "number" ? `HR ${choice}` : choice === "none" ? "none of these" : "unsure";
}

function pressed(button, on) {
  button.setAttribute("aria-pressed", String(on));
}

// From the key press until the picture is on the screen, for the benchmark.
function measure(name, event) {
  const start = event?.timeStamp ?? performance.now();
  requestAnimationFrame(() => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      performance.measure(name, { start, end: performance.now() });
      port1.close();
    };
    port2.postMessage(null);
  });
}

function state(lr) {
  return states.get(lr) || { lr_slice: lr, revision: 0, mine: null, my_confidence: null, my_note: "" };
}

function keepState(found) {
  states.set(found.lr_slice, {
    lr_slice: found.lr_slice,
    revision: found.revision,
    mine: found.mine,
    my_confidence: found.my_confidence,
    my_note: found.my_note,
  });
}

// An answer on its way to the server counts as given.
function applyPending() {
  for (const sent of outbox.pending) applyDecision(sent);
}

function applyDecision(sent) {
  states.set(sent.lr_slice, {
    ...state(sent.lr_slice),
    mine: sent.choice,
    my_confidence: sent.confidence,
    my_note: sent.note,
  });
}

// -- items ----------------------------------------------------------------------

function loadFacts(lr) {
  if (!facts.has(lr)) {
    const promise = getJson(`/api/item/${lr}?reviewer=${encodeURIComponent(reviewer)}`);
    promise.then(
      (item) => {
        if (!states.has(lr)) keepState(item);
        promise.value = item;
      },
      () => facts.delete(lr),
    );
    facts.set(lr, promise);
  }
  return facts.get(lr);
}

async function loadQueue() {
  const answer = await getJson(`/api/queue?reviewer=${encodeURIComponent(reviewer)}`);
  for (const item of answer.items) keepState(item);
  queue = answer.items.map((item) => item.lr_slice);
  undoable = answer.undoable;
  redoable = answer.redoable;
  applyPending();
  showProgress();
}

function nextUndecided(from) {
  const start = Math.max(0, queue.indexOf(from));
  const order = [...queue.slice(start), ...queue.slice(0, start)];
  return order.find((lr) => lr !== from && state(lr).mine === null);
}

async function open(lr, event = null) {
  opening += 1;
  const ticket = opening;
  leave();
  images.forgetPrefetches();
  loading = true;
  heading = lr;
  const low = lowKey(lr);
  let item = facts.get(lr)?.value;
  if (!item || !images.peek(low)) {
    $("#stage").dataset.busy = "1";
    try {
      [item] = await Promise.all([loadFacts(lr), images.load(low)]);
    } catch (error) {
      if (ticket === opening) failed(error);
      return;
    }
    if (ticket !== opening) return;
  }
  const mine = state(lr).mine;
  const first = typeof mine === "number" ? mine : item.candidates[0].hr_slice;
  const draft = drafts.get(lr) || { note: state(lr).my_note, confidence: state(lr).my_confidence };
  const former = current;
  current = {
    lr, item, hr: first,
    chosen: typeof mine === "number" ? mine : null,
    note: draft.note, confidence: draft.confidence,
    revealed: !about.blind,
    views: new Set([viewer.view]),
    since: performance.now(), visible: 0,
  };
  if (!(await draw(ticket))) {
    if (ticket === opening) {
      current = former;
      failed();
    }
    return;
  }
  loading = false;
  delete $("#stage").dataset.busy;
  showItem();
  measure("srmri:item", event);
  document.body.dataset.ready = "1";
  prefetch(ticket);
}

function failed(error) {
  loading = false;
  heading = current?.lr ?? null;
  delete $("#stage").dataset.busy;
  if (error) problem(error);
}

// Whether there is an item on screen that can be worked on.
function ready() {
  return current !== null && !loading;
}

function leave() {
  if (!current) return;
  current.visible += document.hidden ? 0 : performance.now() - current.since;
  current.since = performance.now();
}

function prefetch(ticket) {
  const { lr, item, hr } = current;
  for (const c of item.candidates) images.load(highKey(c.hr_slice, matched), 1).then(showThumbnails, () => {});
  for (const near of [hr + 1, hr - 1]) if (inStack(near)) images.load(highKey(near, matched), 2).catch(() => {});
  images.load(highKey(hr, !matched), 5).catch(() => {});
  let ahead = lr;
  for (let n = 0; n < PREFETCHED_ITEMS; n += 1) {
    ahead = nextUndecided(ahead);
    if (ahead === undefined || ahead === lr) return;
    const coming = ahead;
    images.load(lowKey(coming), 2).catch(() => {});
    loadFacts(coming).then(
      (found) => {
        if (ticket !== opening) return;
        found.candidates.forEach((c, i) => images.load(highKey(c.hr_slice, matched), i ? 4 : 3).catch(() => {}));
      },
      () => {},
    );
  }
}

function inStack(hr) {
  const { first, last } = about.images.hr;
  return hr >= first && hr <= last;
}

// -- pictures -------------------------------------------------------------------

// Put the current pair on the canvas; true once it is there. Without waiting when it is at hand.
async function draw(ticket = opening) {
  const wanted = { lr: lowKey(current.lr), hr: highKey(current.hr, matched) };
  let low = images.peek(wanted.lr);
  let high = images.peek(wanted.hr);
  if (!low || !high) {
    try {
      [low, high] = await Promise.all([images.load(wanted.lr), images.load(wanted.hr)]);
    } catch (error) {
      if (ticket === opening) problem(error);
      return false;
    }
    if (ticket !== opening || wanted.hr !== highKey(current.hr, matched)) return false;
  }
  viewer.low = { key: wanted.lr, pixels: low };
  viewer.high = { key: wanted.hr, pixels: high };
  viewer.arrange();
  render();
  return true;
}

function render() {
  viewer.showLow = holding || (viewer.view === "blink" && blinkLow);
  viewer.render();
  const { canvas } = viewer;
  canvas.dataset.view = viewer.view;
  canvas.dataset.lr = current.lr;
  canvas.dataset.hr = current.hr;
  canvas.dataset.match = matched ? "1" : "0";
  canvas.dataset.showing = viewer.showLow ? "lr" : "hr";
  showPlates();
}

function showPlates() {
  const { lr, hr } = current;
  const names = { low: `LR ${lr}`, high: `HR ${hr}${matched ? " at LR resolution" : ""}` };
  const side = viewer.view === "side";
  const text = side || viewer.showLow ? names.low
    : viewer.view === "difference" ? `${names.low} brighter in orange · ${names.high} in blue`
    : viewer.view === "edges" ? `Edges of ${names.high} on ${names.low}`
    : viewer.view === "swipe" ? `${names.low} | ${names.high}`
    : ["checker", "opacity"].includes(viewer.view) ? `${names.low} and ${names.high}`
    : names.high;
  if ($("#shown").value !== text) $("#shown").value = text;
  $("#shown").dataset.which = viewer.showLow || side ? "lr" : viewer.view === "single" || viewer.view === "blink" ? "hr" : "both";
  const right = $("#shown-right");
  right.hidden = !side;
  if (side) {
    const pane = viewer.panes()[1];
    const ratio = window.devicePixelRatio || 1;
    right.textContent = viewer.showLow ? names.low : names.high;
    right.style.left = `${pane.x / ratio}px`;
    right.style.top = `${pane.y / ratio}px`;
  }
  viewer.canvas.setAttribute("aria-label", `${VIEW_NAMES[viewer.view]}: ${text}`);
  showScaleBar();
}

function showScaleBar() {
  const ratio = window.devicePixelRatio || 1;
  const perMm = viewer.scale().perMm / ratio;
  const length = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50].find((mm) => mm * perMm >= 50) || 100;
  $("#scalebar i").style.width = `${length * perMm}px`;
  $("#scalebar b").textContent = length < 1 ? `${length * 1000} µm` : `${length} mm`;
}

function showThumbnails() {
  const first = $("#strip canvas");
  if (!first || !viewer.low) return;
  // Measured once: every change of a canvas would make the browser lay out the page again.
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [first.clientWidth, first.clientHeight].map((size) => Math.max(1, Math.round(size * ratio)));
  for (const cell of $("#strip").children) {
    const key = cell.dataset.hr ? highKey(Number(cell.dataset.hr), matched) : viewer.low.key;
    const wanted = `${key} ${viewer.window.low} ${viewer.window.high} ${width}`;
    const pixels = images.peek(key);
    if (!pixels || cell.dataset.drawn === wanted) continue;
    viewer.thumbnail(pixels, cell.querySelector("canvas"), width, height);
    cell.dataset.drawn = wanted;
  }
}

// -- what stands around the picture ------------------------------------------------

function showItem() {
  const { lr, item } = current;
  const place = queue.indexOf(lr);
  $("#item-title").textContent = `LR slice ${lr}`;
  document.title = `LR ${lr} · ${about.run} · srmri review`;
  $("#goto").value = lr;
  $("#note").value = current.note;
  $("#strip").replaceChildren(reference(lr), ...item.candidates.map((candidate, n) => stripButton(candidate, n + 1)));
  $("#finished").hidden = !queue.length || nextUndecided(null) !== undefined;
  showThumbnails();
  showChoice();
  showConfidence();
  showReveal();
  showProgress(place);
}

// The slice in question, for the eye to go back to.
function reference(lr) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = `LR ${lr}`;
  figure.append(document.createElement("canvas"), caption);
  return figure;
}

function stripButton({ hr_slice: hr, labels }, number) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.candidate = number;
  button.dataset.hr = hr;
  const picture = document.createElement("canvas");
  const caption = document.createElement("span");
  const key = document.createElement("kbd");
  key.textContent = number;
  caption.append(key, ` HR ${hr}`);
  const who = document.createElement("small");
  who.textContent = labels.join(" · ");
  button.append(picture, caption, who);
  button.setAttribute("aria-label", `Candidate ${number}, HR slice ${hr}`);
  button.addEventListener("click", (event) => ready() && show(hr, event));
  return button;
}

function showChoice() {
  const { lr, hr, chosen } = current;
  for (const button of $$("#strip button")) {
    const on = Number(button.dataset.hr) === hr;
    button.classList.toggle("viewed", on);
    pressed(button, on && chosen === hr);
    if (on) button.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  const accept = $("#accept");
  accept.setAttribute("aria-disabled", String(chosen === null));
  accept.querySelector("span").textContent = chosen === null ? "Choose a candidate" : `Accept HR ${chosen}`;
  const { mine } = state(lr);
  pressed($("#none"), mine === "none");
  pressed($("#unsure"), mine === "unsure");
  const title = $("#item-title");
  title.dataset.answer = mine ?? "";
  let answer = title.querySelector("small");
  if (!answer) title.append((answer = document.createElement("small")));
  answer.textContent = mine !== null ? `your answer: ${choiceName(mine)}` : current.item.empty ? "near-empty" : "";
  answer.className = mine !== null ? "given" : "";
  drawCharts();
}

function drawCharts() {
  const { item, hr, revealed } = current;
  drawCurve($("#curve"), item, {
    hr, revealed, answers: (lr) => state(lr).mine, onOpen: (lr) => open(lr),
  });
  drawScores($("#scores"), item, { hr, first: about.scored.first, revealed });
}

function showConfidence() {
  for (const button of $$("#confidence button")) {
    pressed(button, Number(button.dataset.confidence) === current.confidence);
  }
}

function showReveal() {
  const { item, revealed } = current;
  $("#strip").dataset.revealed = revealed ? "1" : "0";
  pressed($("#reveal"), revealed);
  $("#reveal").firstChild.textContent = revealed ? "Hide " : "Reveal ";
  $("#reveal").hidden = !about.blind;
  $("#reason").textContent = revealed ? item.reason : "Covered, so that your eyes decide. Shown once you have.";
}

function showProgress(place = current ? queue.indexOf(current.lr) : -1) {
  const done = queue.filter((lr) => state(lr).mine !== null).length;
  const progress = $("#progress");
  progress.dataset.done = done;
  progress.dataset.total = queue.length;
  $("#progress-bar").max = Math.max(1, queue.length);
  $("#progress-bar").value = done;
  const at = place >= 0 ? `item ${place + 1} · ` : "";
  $("#progress-text").textContent = `${at}${done} of ${queue.length} decided${timeLeft(queue.length - done)}`;
  for (const [id, event] of [["#undo", undoable], ["#redo", redoable]]) $(id).disabled = !event && !(id === "#undo" && outbox?.size);
}

function timeLeft(count) {
  if (spent.length < 2 || !count) return "";
  const middle = [...spent].sort((a, b) => a - b)[Math.floor(spent.length / 2)];
  const minutes = (middle * count) / 60000;
  return minutes < 1 ? " · under a minute left" : ` · about ${Math.round(minutes)} min left`;
}

// -- what the reviewer does ----------------------------------------------------------

async function show(hr, event) {
  if (!inStack(hr)) return;
  current.hr = hr;
  current.chosen = hr;
  showChoice();
  if (await draw()) measure("srmri:view", event);
  for (const near of [hr + 1, hr - 1]) if (inStack(near)) images.load(highKey(near, matched), 1).catch(() => {});
  images.load(highKey(hr, !matched), 3).catch(() => {});
}

function setView(view, event) {
  viewer.view = view;
  current.views.add(view);
  viewer.arrange();
  for (const button of $$("#view-buttons button")) pressed(button, button.dataset.view === view);
  const mixes = view === "swipe" || view === "opacity";
  $("#mix-label").hidden = !mixes;
  $("#mix-label span").textContent = view === "swipe" ? "Edge" : "HR share";
  startBlink();
  render();
  measure("srmri:view", event);
}

function startBlink() {
  window.clearInterval(blinkTimer);
  blinkLow = false;
  if (viewer.view !== "blink") return;
  if (reducedMotion.matches) {
    say(`Blinking by itself is off, as your system asks for less motion. Hold ${shortName(keys.map.hold)}.`);
    return;
  }
  blinkTimer = window.setInterval(() => {
    if (document.hidden || holding || document.querySelector("dialog[open]")) return;
    blinkLow = !blinkLow;
    render();
  }, BLINK_MS);
}

function hold(on, event) {
  holding = on;
  if (on) current.views.add("hold");
  render();
  measure("srmri:view", event);
}

async function toggleMatch(event) {
  matched = !matched;
  if (matched) current.views.add("matched");
  pressed($("#match"), matched);
  if (await draw()) measure("srmri:view", event);
  showThumbnails();
  prefetch(opening);
}

function setMix(value, event) {
  viewer.mix = Math.min(1, Math.max(0, value));
  $("#mix").value = Math.round(viewer.mix * 100);
  render();
  if (event) measure("srmri:view", event);
}

function setWindow(low, high) {
  const clip = (value) => Math.round(Math.min(65535, Math.max(0, value)));
  viewer.setWindow(clip(low), clip(high));
  $("#wl-low").value = viewer.window.low;
  $("#wl-high").value = viewer.window.high;
  render();
  window.clearTimeout(setWindow.later);
  setWindow.later = window.setTimeout(showThumbnails, 150);
}

function zoom(factor, event) {
  if (factor === 0) viewer.fit();
  else viewer.zoomBy(factor);
  render();
  measure("srmri:view", event);
}

function setConfidence(value) {
  current.confidence = current.confidence === value ? null : value;
  keepDraft();
  showConfidence();
}

function keepDraft() {
  drafts.set(current.lr, { note: current.note, confidence: current.confidence });
  remember(storageKey("drafts"), [...drafts]);
}

function storageKey(name) {
  return `srmri:${name}:${about.id}:${reviewer}`;
}

async function decide(choice, event) {
  if (choice === null) {
    say("Choose a candidate first: press its digit, or an arrow key.", "warn");
    return;
  }
  leave();
  const { lr, item, views, visible } = current;
  if (outbox.pending.some((sent) => sent.lr_slice === lr)) {
    // Its revision is not known before the former answer has arrived.
    await outbox.flush();
    if (current.lr !== lr) return;
  }
  const submission = {
    run: about.id,
    lr_slice: lr,
    choice,
    reviewer,
    expected_revision: state(lr).revision,
    submission_id: uuid(),
    confidence: current.confidence,
    note: current.note,
    shown: item.candidates.map((candidate) => candidate.hr_slice),
    visible_ms: Math.round(Math.min(visible, 6 * 3600 * 1000)),
    views: [...views].slice(0, 32),
  };
  applyDecision(submission);
  drafts.delete(lr);
  remember(storageKey("drafts"), [...drafts]);
  spent.push(visible);
  outbox.add(submission);
  say(`Saving LR ${lr}: ${choiceName(choice)} …`);
  const following = nextUndecided(lr);
  showProgress();
  if (following !== undefined) {
    await open(following, event);
  } else {
    showItem();
    $("#finished").hidden = false;
    measure("srmri:item", event);
  }
}

function onSaved(event, sent) {
  if (sent.reviewer !== reviewer) return;
  keepState({
    lr_slice: event.lr_slice, revision: event.revision, mine: event.choice,
    my_confidence: event.confidence, my_note: event.note,
  });
  undoable = event;
  redoable = null;
  if (!outbox.size) say(`Saved LR ${event.lr_slice}: ${choiceName(event.choice)}.`);
  showProgress();
}

async function onRefused(error, sent) {
  if (error.body.state) keepState(error.body.state);
  else keepState({ ...state(sent.lr_slice), mine: null, my_confidence: null, my_note: "" });
  // What was written is not thrown away with the answer.
  drafts.set(sent.lr_slice, { note: sent.note, confidence: sent.confidence });
  await open(sent.lr_slice);
  say(
    error.status === 409
      ? `LR ${sent.lr_slice} was not saved: its answer changed elsewhere, to ${choiceName(state(sent.lr_slice).mine)}. Look again and decide.`
      : `LR ${sent.lr_slice} was not saved: ${error.message}. ${error.hint}`,
    "warn",
  );
}

function onWaiting(error) {
  const reason = !(error instanceof ApiError) || error.status >= 500
    ? "Not saved yet: the server does not answer. Trying again; nothing is lost while this tab is open."
    : error.body.other_run
      ? "Not saved: another run is served at this address now. Reload the page; your answer is kept in this browser."
      : "Not saved yet: this session has ended. Open the address of the running srmri review; your answers are kept in this browser.";
  say(reason, "warn");
}

async function takeBack(kind, event) {
  await outbox.flush();
  const target = kind === "undo" ? undoable : redoable;
  if (!target) {
    say(`There is nothing to ${kind}.`);
    return;
  }
  const lr = target.lr_slice;
  try {
    if (!states.has(lr)) await loadFacts(lr);
    const done = await post("/api/undo", {
      run: about.id, lr_slice: lr, expected_revision: state(lr).revision, submission_id: uuid(), reviewer, undoes: target.id,
    });
    keepState({
      lr_slice: lr, revision: done.revision, mine: done.choice,
      my_confidence: done.confidence, my_note: done.note,
    });
    drafts.delete(lr);
    await loadQueue();
    await open(lr, event);
    say(`${kind === "undo" ? "Undone" : "Done again"}: LR ${lr} is ${choiceName(done.choice)}.`);
  } catch (error) {
    if (error instanceof ApiError && error.status === 409 && !error.body.other_run) {
      await loadQueue();
      if (error.body.state) keepState(error.body.state);
      await open(lr);
      say(`LR ${lr} changed elsewhere; look again.`, "warn");
    } else {
      problem(error);
    }
  }
}

function step(by, event) {
  if (!queue.length || heading === null) return;
  const place = queue.indexOf(heading);
  // Beside the queue, on an accepted slice: back to where the queue goes on.
  const from = place >= 0 ? place : queue.findIndex((lr) => lr > heading) - (by > 0 ? 1 : 0);
  open(queue[(from + by + queue.length) % queue.length], event);
}

function reveal() {
  if (!about.blind) return;
  if (!current.revealed && state(current.lr).mine === null) {
    say("The votes stay covered until you have decided; then go back with K and reveal.");
    return;
  }
  current.revealed = !current.revealed;
  if (current.revealed) current.views.add("reveal");
  showReveal();
  drawCharts();
}

function problem(error) {
  const text = error instanceof ApiError ? `${error.message}. ${error.hint}` : "The server does not answer. Is srmri review still running?";
  say(text, "warn");
}

// -- wiring -------------------------------------------------------------------------

const DO = {
  accept: (event) => decide(current.chosen, event),
  none: (event) => decide("none", event),
  unsure: (event) => decide("unsure", event),
  back: (event) => show(current.hr - 1, event),
  forward: (event) => show(current.hr + 1, event),
  back5: (event) => show(Math.max(about.images.hr.first, current.hr - 5), event),
  forward5: (event) => show(Math.min(about.images.hr.last, current.hr + 5), event),
  hold: (event) => hold(true, event),
  next: (event) => step(1, event),
  previous: (event) => step(-1, event),
  undo: (event) => takeBack("undo", event),
  redo: (event) => takeBack("redo", event),
  ...Object.fromEntries(Object.keys(VIEW_NAMES).map((view) => [view, (event) => setView(view, event)])),
  match: toggleMatch,
  less: (event) => setMix(viewer.mix - 0.05, event),
  more: (event) => setMix(viewer.mix + 0.05, event),
  zoomIn: (event) => zoom(1.25, event),
  zoomOut: (event) => zoom(0.8, event),
  zoomFit: (event) => zoom(0, event),
  windowReset: () => setWindow(viewer.defaults.low, viewer.defaults.high),
  reveal,
  note: () => $("#note").focus(),
  goto: () => $("#goto").select(),
  help: () => $("#help").showModal(),
};

// What leads away from the item, and so needs none that is ready.
const MOVES = new Set(["next", "previous", "undo", "redo", "help"]);

function wireKeys() {
  keys = new Keys({
    press: (action, event) => (ready() || MOVES.has(action)) && DO[action](event),
    release: (_, event) => current && hold(false, event),
    digit: (number, event) => {
      const candidate = ready() && current.item.candidates[number - 1];
      if (candidate) show(candidate.hr_slice, event);
    },
    confidence: (number) => ready() && setConfidence(number),
  });
  showKeyNames();
}

function nameKey(button, label, action) {
  label.textContent = shortName(keys.map[action]);
  button.setAttribute("aria-keyshortcuts", keys.map[action].replace("Mod", "Control"));
}

function showKeyNames() {
  const named = { accept: "#accept", none: "#none", unsure: "#unsure", undo: "#undo", match: "#match", reveal: "#reveal", windowReset: "#wl-reset", help: "#help-open" };
  for (const [action, selector] of Object.entries(named)) nameKey($(selector), $(`${selector} kbd`), action);
  for (const button of $$("#view-buttons button")) {
    const key = document.createElement("kbd");
    nameKey(button, key, button.dataset.view);
    button.replaceChildren(VIEW_NAMES[button.dataset.view], " ", key);
  }
  $("#keymap").replaceChildren(...Object.entries(ACTIONS).map(([action, [words]]) => {
    const row = document.createElement("div");
    const label = document.createElement("span");
    label.textContent = words;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = shortName(keys.map[action]);
    button.setAttribute("aria-label", `${words}: ${shortName(keys.map[action])}, change`);
    button.addEventListener("click", () => {
      button.textContent = "press a key…";
      keys.capture = {
        action,
        done: (trouble) => {
          showKeyNames();
          if (trouble) say(trouble, "warn");
        },
      };
    });
    row.append(label, button);
    return row;
  }));
}

function wireButtons() {
  const clicks = {
    accept: "accept", none: "none", unsure: "unsure", undo: "undo", redo: "redo", next: "next",
    prev: "previous", match: "match", reveal: "reveal", "wl-reset": "windowReset",
    "zoom-in": "zoomIn", "zoom-out": "zoomOut", "zoom-fit": "zoomFit", "help-open": "help",
  };
  for (const [id, action] of Object.entries(clicks)) {
    $(`#${id}`).addEventListener("click", (event) => (ready() || MOVES.has(action)) && DO[action](event));
  }
  for (const button of $$("#view-buttons button")) {
    button.addEventListener("click", (event) => ready() && setView(button.dataset.view, event));
  }
  for (const button of $$("#confidence button")) {
    button.addEventListener("click", () => ready() && setConfidence(Number(button.dataset.confidence)));
  }
  // A click leaves the focus where it is: the next Enter accepts, it does not click again.
  document.addEventListener("mousedown", (event) => {
    if (event.target.closest("main button, #top button")) event.preventDefault();
  });
  $("#note").addEventListener("input", (event) => {
    current.note = event.target.value;
    keepDraft();
  });
  $("#goto").addEventListener("change", (event) => {
    const lr = Number(event.target.value);
    const { first, last } = about.images.lr;
    if (!Number.isInteger(lr) || lr < first || lr > last) {
      say(`This run has LR slices ${first} to ${last}.`, "warn");
      return;
    }
    event.target.blur();
    open(lr);
  });
  $("#mix").addEventListener("input", (event) => setMix(event.target.value / 100));
  $("#wl-low").addEventListener("input", (event) => {
    setWindow(Math.min(Number(event.target.value), viewer.window.high - 256), viewer.window.high);
  });
  $("#wl-high").addEventListener("input", (event) => {
    setWindow(viewer.window.low, Math.max(Number(event.target.value), viewer.window.low + 256));
  });
  $("#help-close").addEventListener("click", () => $("#help").close());
  $("#help").addEventListener("close", () => {
    keys.capture = null;
    showKeyNames();
  });
  $("#keys-reset").addEventListener("click", () => {
    keys.reset();
    showKeyNames();
  });
  $("#keys-on").checked = keys.enabled;
  $("#keys-on").addEventListener("change", (event) => keys.enable(event.target.checked));
  $("#who").addEventListener("click", async () => {
    await outbox?.flush();
    begin(await askReviewer());
  });
}

function wireCanvas() {
  const { canvas } = viewer;
  const ratio = () => window.devicePixelRatio || 1;
  let drag = null;
  let frame = 0;
  const soon = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      if (current) render();
    });
  };
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("pointerdown", (event) => {
    if (!current || event.button === 1) return;
    const near = Math.abs(event.offsetX * ratio() - viewer.swipeX()) < 16 * ratio();
    const kind = event.button === 2 ? "window" : viewer.view === "swipe" && (near || viewer.zoom === 1) ? "swipe" : "pan";
    drag = { kind, x: event.clientX, y: event.clientY, ...viewer.window };
    canvas.setPointerCapture(event.pointerId);
    if (kind === "swipe") setMix(viewer.mixAt(event.offsetX * ratio()));
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const dx = event.clientX - drag.x;
    const dy = event.clientY - drag.y;
    if (drag.kind === "swipe") {
      viewer.mix = viewer.mixAt(event.offsetX * ratio());
      $("#mix").value = Math.round(viewer.mix * 100);
      soon();
    } else if (drag.kind === "pan") {
      viewer.panBy(dx * ratio(), dy * ratio());
      drag.x = event.clientX;
      drag.y = event.clientY;
      soon();
    } else {
      // Across: contrast. Up and down: brightness, as in every viewer.
      const span = drag.high - drag.low;
      const middle = (drag.low + drag.high) / 2 + (dy / canvas.clientHeight) * span;
      const width = Math.max(256, span * Math.exp(-(2 * dx) / canvas.clientWidth));
      setWindow(middle - width / 2, middle + width / 2);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (drag = null));
  canvas.addEventListener("wheel", (event) => {
    if (!current) return;
    event.preventDefault();
    viewer.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.offsetX * ratio(), event.offsetY * ratio());
    soon();
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => current && zoom(0, event));
  new ResizeObserver(() => {
    viewer.resize();
    viewer.arrange();
    if (current) render();
  }).observe(canvas);
}

function wirePage() {
  document.addEventListener("visibilitychange", () => {
    if (!current) return;
    if (document.hidden) current.visible += performance.now() - current.since;
    current.since = performance.now();
  });
  window.addEventListener("beforeunload", (event) => {
    // Only while something is under way; it would be sent the next time, too.
    if (outbox?.size) event.preventDefault();
  });
  reducedMotion.addEventListener("change", () => current && startBlink());
  window.addEventListener("online", () => outbox?.flush());
}

function askReviewer() {
  const dialog = $("#reviewer");
  const name = $("#reviewer-name");
  name.value = reviewer || recall("srmri:reviewer", "");
  $("#reviewer-problem").textContent = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const form = $("#reviewer-form");
    const submit = async (event) => {
      event.preventDefault();
      const wanted = name.value.trim();
      try {
        await getJson(`/api/queue?reviewer=${encodeURIComponent(wanted)}`);
      } catch (error) {
        $("#reviewer-problem").textContent = error instanceof ApiError ? error.message : "The server does not answer.";
        return;
      }
      form.removeEventListener("submit", submit);
      dialog.close();
      resolve(wanted);
    };
    form.addEventListener("submit", submit);
    // Without a name there is nothing to do; with one, Escape keeps it.
    dialog.oncancel = (event) => {
      if (!reviewer) {
        event.preventDefault();
        return;
      }
      form.removeEventListener("submit", submit);
      resolve(reviewer);
    };
  });
}

async function begin(name) {
  reviewer = name.normalize("NFC").trim();
  remember("srmri:reviewer", reviewer);
  // A tab goes on with its reviewer; a new tab asks, so that two people can share a browser.
  remember("srmri:reviewer", reviewer, "sessionStorage");
  $("#who").textContent = reviewer;
  states.clear();
  facts.clear();
  drafts.clear();
  spent.length = 0;
  for (const [lr, draft] of recall(storageKey("drafts"), [])) drafts.set(lr, draft);
  outbox = new Outbox(storageKey("pending"), { saved: onSaved, refused: onRefused, waiting: onWaiting });
  if (outbox.size) await Promise.race([outbox.flush(), new Promise((resolve) => setTimeout(resolve, 1500))]);
  await loadQueue();
  const start = nextUndecided(null) ?? queue[0] ?? about.images.lr.first;
  await open(start);
  if (!queue.length) say("The matcher left nothing undecided; any slice can still be looked at.");
}

async function main() {
  about = await getJson("/api/run");
  viewer = new Viewer($("#canvas"), about.images);
  for (const [edge, letter] of Object.entries(about.images.directions)) {
    $(`.anatomy[data-edge="${edge}"]`).textContent = letter;
  }
  $("#goto").min = about.images.lr.first;
  $("#goto").max = about.images.lr.last;
  $("#wl-low").value = viewer.window.low;
  $("#wl-high").value = viewer.window.high;
  wireKeys();
  wireButtons();
  wireCanvas();
  wirePage();
  pressed($("#view-buttons [data-view=single]"), true);
  const given = recall("srmri:reviewer", "", "sessionStorage") || document.body.dataset.reviewer;
  await begin(given || (await askReviewer()));
}

main().catch(problem);

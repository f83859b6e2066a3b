// The review page: one item at a time, what is shown of it, and what is decided.

import { ApiError, Outbox, getJson, post, recall, remember, uuid } from "./api.js";
import { drawCurve, drawScores } from "./charts.js";
import { ImageCache, highKey, lowKey } from "./images.js";
import { ACTIONS, Keys, shortName } from "./keys.js";
import { Viewer } from "./viewer.js";

const BLINK_MS = 400; // one change: 1.25 flashes a second, well below the 3 that can harm
const PREFETCHED_ITEMS = 2;
const BULK = "bulk"; // the view of what was accepted together
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
let queue = []; // numbers of items, in the order of review: LR slices, unless trials are among them
let clear = []; // items that can be accepted together: {item, choice}
let left = null; // the item of the queue that was on screen last
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

const states = new Map(); // item -> the reviewer's own state
const facts = new Map(); // item -> promise of what is known about the item
const drafts = new Map(); // item -> {note, confidence} that was not sent yet
const images = new ImageCache();
const spent = []; // milliseconds per item decided in this sitting

// -- small things -------------------------------------------------------------

function say(text, kind = "") {
  $("#status").textContent = text;
  $("#status").className = kind;
}

function choiceName(choice) {
  if (choice === null || choice === undefined) return "no answer";
  if (typeof choice === "number") return about.masked ? "an HR slice" : `HR ${choice}`;
  return choice === "none" ? "none of these" : "unsure";
}

// Where trials are among the items, no slice is called by its number: a repeat could be told.
function itemName(id) {
  return about.masked ? `item ${queue.indexOf(id) + 1}` : `LR ${id}`;
}

function highName(hr) {
  if (!about.masked) return `HR ${hr}`;
  const from = hr - Math.min(...current.item.candidates.map((candidate) => candidate.hr_slice));
  return `HR ${from < 0 ? "−" : "+"}${Math.abs(from)}`;
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

function state(id) {
  return states.get(id) || { item: id, revision: 0, mine: null, my_confidence: null, my_note: "" };
}

function keepState(found) {
  states.set(found.item, {
    item: found.item,
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
  states.set(sent.item, {
    ...state(sent.item),
    mine: sent.choice,
    my_confidence: sent.confidence,
    my_note: sent.note,
  });
}

// -- items ----------------------------------------------------------------------

function loadFacts(id) {
  if (!facts.has(id)) {
    const promise = getJson(`/api/item/${id}?reviewer=${encodeURIComponent(reviewer)}`);
    promise.then(
      (item) => {
        if (!states.has(id)) keepState(item);
        promise.value = item;
      },
      () => facts.delete(id),
    );
    facts.set(id, promise);
  }
  return facts.get(id);
}

async function loadQueue() {
  const answer = await getJson(`/api/queue?reviewer=${encodeURIComponent(reviewer)}`);
  for (const item of answer.items) keepState(item);
  queue = answer.items.map((item) => item.item);
  undoable = answer.undoable;
  redoable = answer.redoable;
  clear = (await getJson(`/api/clear?reviewer=${encodeURIComponent(reviewer)}`)).items;
  applyPending();
  showProgress();
}

function nextUndecided(from) {
  const start = Math.max(0, queue.indexOf(from));
  const order = [...queue.slice(start), ...queue.slice(0, start)];
  return order.find((id) => id !== from && state(id).mine === null);
}

async function open(id, event = null) {
  opening += 1;
  const ticket = opening;
  leave();
  images.forgetPrefetches();
  loading = true;
  heading = id;
  const low = lowKey(id, reviewer);
  let item = facts.get(id)?.value;
  if (!item || !images.peek(low)) {
    $("#stage").dataset.busy = "1";
    try {
      [item] = await Promise.all([loadFacts(id), images.load(low)]);
    } catch (error) {
      if (ticket === opening) failed(error);
      return;
    }
    if (ticket !== opening) return;
  }
  const mine = state(id).mine;
  const first = typeof mine === "number" ? mine : item.candidates[0].hr_slice;
  const draft = drafts.get(id) || { note: state(id).my_note, confidence: state(id).my_confidence };
  const former = current;
  current = {
    id, item, hr: first,
    chosen: typeof mine === "number" ? mine : null,
    note: draft.note, confidence: draft.confidence,
    revealed: !item.covered && !about.blind,
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
  if (queue.includes(id)) left = id;
  delete $("#stage").dataset.busy;
  showItem();
  measure("srmri:item", event);
  document.body.dataset.ready = "1";
  prefetch(ticket);
}

function failed(error) {
  loading = false;
  heading = current?.id ?? null;
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
  const { id, item, hr } = current;
  for (const c of item.candidates) images.load(highKey(c.hr_slice, matched), 1).then(showThumbnails, () => {});
  for (const near of [hr + 1, hr - 1]) if (inStack(near)) images.load(highKey(near, matched), 2).catch(() => {});
  images.load(highKey(hr, !matched), 5).catch(() => {});
  let ahead = id;
  for (let n = 0; n < PREFETCHED_ITEMS; n += 1) {
    ahead = nextUndecided(ahead);
    if (ahead === undefined || ahead === id) return;
    const coming = ahead;
    images.load(lowKey(coming, reviewer), 2).catch(() => {});
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
  const wanted = { lr: lowKey(current.id, reviewer), hr: highKey(current.hr, matched) };
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
  canvas.dataset.item = current.id;
  canvas.dataset.hr = current.hr;
  canvas.dataset.match = matched ? "1" : "0";
  canvas.dataset.showing = viewer.showLow ? "lr" : "hr";
  showPlates();
}

function showPlates() {
  const { id, hr } = current;
  const names = {
    low: about.masked ? "LR" : itemName(id), high: `${highName(hr)}${matched ? " at LR resolution" : ""}`,
  };
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
  const { id, item } = current;
  const place = queue.indexOf(id);
  const name = itemName(id).replace("LR", "LR slice").replace("item", "Item");
  $("#item-title").textContent = name;
  document.title = `${name} · ${about.run} · srmri review`;
  $("#goto").value = about.masked ? "" : id;
  $("#note").value = current.note;
  $("#finished").hidden = !queue.length || nextUndecided(null) !== undefined;
  showStrip();
  showChoice();
  showConfidence();
  showReveal();
  showProgress(place);
}

function showStrip() {
  const buttons = current.item.candidates.map((candidate, n) => stripButton(candidate, n + 1));
  $("#strip").replaceChildren(reference(current.id), ...buttons);
  showThumbnails();
}

// The slice in question, for the eye to go back to.
function reference(id) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  caption.textContent = about.masked ? "LR" : itemName(id);
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
  caption.append(key, ` ${highName(hr)}`);
  const who = document.createElement("small");
  who.textContent = labels.join(" · ");
  button.append(picture, caption, who);
  button.setAttribute("aria-label", `Candidate ${number}, ${highName(hr).replace("HR", "HR slice")}`);
  button.addEventListener("click", (event) => ready() && show(hr, event));
  return button;
}

function showChoice() {
  const { id, hr, chosen } = current;
  for (const button of $$("#strip button")) {
    const on = Number(button.dataset.hr) === hr;
    button.classList.toggle("viewed", on);
    pressed(button, on && chosen === hr);
    if (on) button.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  const accept = $("#accept");
  accept.setAttribute("aria-disabled", String(chosen === null));
  accept.querySelector("span").textContent = chosen === null ? "Choose a candidate" : `Accept ${highName(chosen)}`;
  const { mine } = state(id);
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
  const { id, item, hr, revealed } = current;
  drawCurve($("#curve"), item, {
    hr, revealed, lr: about.masked ? null : id, answers: (other) => state(other).mine, onOpen: (other) => open(other),
  });
  drawScores($("#scores"), item, { hr, first: about.scored.first, revealed: revealed && !item.covered });
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
  $("#reason").textContent = revealed ? item.reason
    : about.masked ? "Covered until every item has your answer: there are trials among them."
    : "Covered, so that your eyes decide. Shown once you have.";
}

function showProgress(place = current ? queue.indexOf(current.id) : -1) {
  const done = queue.filter((id) => state(id).mine !== null).length;
  const progress = $("#progress");
  progress.dataset.done = done;
  progress.dataset.total = queue.length;
  $("#progress-bar").max = Math.max(1, queue.length);
  $("#progress-bar").value = done;
  const at = place >= 0 && !about.masked ? `item ${place + 1} · ` : "";
  const offered = clear.filter(({ item }) => state(item).mine === null).length;
  $("#clear").hidden = !offered;
  $("#clear span").textContent = `Accept ${offered} clear`;
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
  drafts.set(current.id, { note: current.note, confidence: current.confidence });
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
  const { id, item, views, visible } = current;
  if (outbox.pending.some((sent) => sent.item === id)) {
    // Its revision is not known before the former answer has arrived.
    await outbox.flush();
    if (current.id !== id) return;
  }
  const submission = {
    run: about.id,
    item: id,
    choice,
    reviewer,
    expected_revision: state(id).revision,
    submission_id: uuid(),
    confidence: current.confidence,
    note: current.note,
    shown: item.candidates.map((candidate) => candidate.hr_slice),
    visible_ms: Math.round(Math.min(visible, 6 * 3600 * 1000)),
    views: [...views].slice(0, 32),
  };
  applyDecision(submission);
  drafts.delete(id);
  remember(storageKey("drafts"), [...drafts]);
  spent.push(visible);
  outbox.add(submission);
  say(`Saving ${itemName(id)}: ${choiceName(choice)} …`);
  const following = nextUndecided(id);
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
    item: event.item, revision: event.revision, mine: event.choice,
    my_confidence: event.confidence, my_note: event.note,
  });
  undoable = event;
  redoable = null;
  // Decided, more may be told about it the next time.
  facts.delete(event.item);
  if (!outbox.size) say(sent.views[0] === BULK ? "Saved; each can be undone." : `Saved ${itemName(event.item)}: ${choiceName(event.choice)}.`);
  showProgress();
}

async function onRefused(error, sent) {
  if (error.body.state) keepState(error.body.state);
  else keepState({ ...state(sent.item), mine: null, my_confidence: null, my_note: "" });
  // What was written is not thrown away with the answer.
  drafts.set(sent.item, { note: sent.note, confidence: sent.confidence });
  await open(sent.item);
  say(
    error.status === 409
      ? `${itemName(sent.item)} was not saved: its answer changed elsewhere, to ${choiceName(state(sent.item).mine)}. Look again and decide.`
      : `${itemName(sent.item)} was not saved: ${error.message}. ${error.hint}`,
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
  const id = target.item;
  try {
    if (!states.has(id)) await loadFacts(id);
    const done = await post("/api/undo", {
      run: about.id, item: id, expected_revision: state(id).revision, submission_id: uuid(), reviewer, undoes: target.id,
    });
    keepState({
      item: id, revision: done.revision, mine: done.choice,
      my_confidence: done.confidence, my_note: done.note,
    });
    drafts.delete(id);
    await loadQueue();
    await open(id, event);
    say(`${kind === "undo" ? "Undone" : "Done again"}: ${itemName(id)} is ${choiceName(done.choice)}.`);
  } catch (error) {
    if (error instanceof ApiError && error.status === 409 && !error.body.other_run) {
      await loadQueue();
      if (error.body.state) keepState(error.body.state);
      await open(id);
      say(`${itemName(id)} changed elsewhere; look again.`, "warn");
    } else {
      problem(error);
    }
  }
}

function step(by, event) {
  if (!queue.length || heading === null) return;
  const place = queue.indexOf(heading);
  // Beside the queue, on an accepted slice: back to the item that was left for it.
  if (place < 0) open(left ?? queue[0], event);
  else open(queue[(place + by + queue.length) % queue.length], event);
}

async function reveal() {
  if (!about.blind) return;
  const { id } = current;
  if (state(id).mine === null) {
    say("The votes stay covered until you have decided; then go back with K and reveal.");
    return;
  }
  if (current.item.covered) {
    await outbox.flush();
    facts.delete(id);
    try {
      const item = await loadFacts(id);
      if (current.id !== id) return;
      current.item = item;
    } catch (error) {
      problem(error);
      return;
    }
    if (current.item.covered) {
      say("The votes stay covered until every item has your answer: there are trials among them.");
      return;
    }
    showStrip();
    showChoice();
  }
  current.revealed = !current.revealed;
  if (current.revealed) current.views.add("reveal");
  showReveal();
  drawCharts();
}

// Items whose voters differ by one slice and agree with geometry: one look at the list, and one
// event for each.
function offerClear() {
  const offered = clear.filter(({ item }) => state(item).mine === null);
  if (!offered.length) {
    say("There are no items whose voters all but agree.");
    return;
  }
  $("#clear-list").replaceChildren(...offered.map(({ item, choice }) => {
    const row = document.createElement("li");
    row.textContent = about.masked ? itemName(item) : `${itemName(item)} as HR ${choice}`;
    return row;
  }));
  $("#clear-accept").textContent = `Accept ${offered.length}`;
  $("#clear-dialog").showModal();
}

async function acceptClear() {
  $("#clear-dialog").close();
  for (const { item, choice } of clear) {
    if (state(item).mine !== null) continue;
    const submission = {
      run: about.id, item, choice, reviewer, expected_revision: state(item).revision, submission_id: uuid(),
      confidence: null, note: "", shown: [], visible_ms: 0, views: [BULK],
    };
    applyDecision(submission);
    outbox.add(submission);
  }
  say("Saving …");
  showProgress();
  const following = state(current.id).mine === null ? current.id : nextUndecided(current.id);
  if (following === undefined) showItem();
  else await open(following);
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
  clear: offerClear,
  note: () => $("#note").focus(),
  goto: () => (about.masked ? say("Slices have no numbers while trials are among the items.") : $("#goto").select()),
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
  const named = { accept: "#accept", none: "#none", unsure: "#unsure", undo: "#undo", match: "#match", reveal: "#reveal", clear: "#clear", windowReset: "#wl-reset", help: "#help-open" };
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
    prev: "previous", match: "match", reveal: "reveal", clear: "clear", "wl-reset": "windowReset",
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
    const id = Number(event.target.value);
    const { first, last } = about.images.lr;
    if (!Number.isInteger(id) || id < first || id > last) {
      say(`This run has LR slices ${first} to ${last}.`, "warn");
      return;
    }
    event.target.blur();
    open(id);
  });
  $("#mix").addEventListener("input", (event) => setMix(event.target.value / 100));
  $("#wl-low").addEventListener("input", (event) => {
    setWindow(Math.min(Number(event.target.value), viewer.window.high - 256), viewer.window.high);
  });
  $("#wl-high").addEventListener("input", (event) => {
    setWindow(viewer.window.low, Math.max(Number(event.target.value), viewer.window.low + 256));
  });
  $("#help-close").addEventListener("click", () => $("#help").close());
  $("#clear-accept").addEventListener("click", acceptClear);
  $("#clear-cancel").addEventListener("click", () => $("#clear-dialog").close());
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
  left = null;
  for (const [id, draft] of recall(storageKey("drafts"), [])) drafts.set(id, draft);
  outbox = new Outbox(storageKey("pending"), { saved: onSaved, refused: onRefused, waiting: onWaiting });
  if (outbox.size) await Promise.race([outbox.flush(), new Promise((resolve) => setTimeout(resolve, 1500))]);
  await loadQueue();
  // Without a queue there are no trials, and a slice is called by its number.
  const start = nextUndecided(null) ?? queue[0] ?? about.images.lr.first;
  await open(start);
  if (!queue.length) {
    say(about.adjudicate
      ? "There is nothing that reviewers disagree on; any slice can still be looked at."
      : "The matcher left nothing undecided; any slice can still be looked at.");
  }
}

async function main() {
  about = await getJson("/api/run");
  viewer = new Viewer($("#canvas"), about.images);
  for (const [edge, letter] of Object.entries(about.images.directions)) {
    $(`.anatomy[data-edge="${edge}"]`).textContent = letter;
  }
  $("#goto-row").hidden = about.masked;
  $("#mode").hidden = !about.masked && !about.adjudicate;
  $("#mode").textContent = about.adjudicate ? "Adjudication" : "With trials";
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

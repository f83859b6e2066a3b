// Keys: which one does what, whether it counts now, and giving an action another one.

import { recall, remember } from "./api.js";

const STORED = "srmri:keys";

// name: [words, usual key]
export const ACTIONS = {
  accept: ["Accept what is shown", "Enter"],
  none: ["None of these", "x"],
  unsure: ["Unsure", "u"],
  back: ["HR slice before", "ArrowLeft"],
  forward: ["HR slice after", "ArrowRight"],
  back5: ["Five HR slices back", "Shift+ArrowLeft"],
  forward5: ["Five HR slices on", "Shift+ArrowRight"],
  hold: ["Hold: the LR slice in its place", "Space"],
  next: ["Next item", "j"],
  previous: ["Previous item", "k"],
  undo: ["Undo", "Mod+z"],
  redo: ["Redo", "Mod+Shift+z"],
  single: ["View: one image", "h"],
  blink: ["View: blink", "b"],
  swipe: ["View: swipe", "s"],
  checker: ["View: checkerboard", "g"],
  difference: ["View: difference", "d"],
  edges: ["View: edges", "e"],
  opacity: ["View: blend", "o"],
  side: ["View: side by side", "p"],
  match: ["Match resolution", "m"],
  less: ["Swipe or blend: less HR", "["],
  more: ["Swipe or blend: more HR", "]"],
  zoomIn: ["Zoom in", "+"],
  zoomOut: ["Zoom out", "-"],
  zoomFit: ["Anatomy, or the whole image", "0"],
  windowReset: ["Reset black and white", "w"],
  reveal: ["Reveal the votes", "r"],
  clear: ["Accept the clear items together", "a"],
  note: ["Write a note", "n"],
  goto: ["Go to an LR slice", "l"],
  help: ["This list", "?"],
};

// The same key with another finger: a second name that can not be given away.
const ALIASES = { "=": "+", _: "-", "Mod+y": "Mod+Shift+z" };
const WORDS = {
  ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", "-": "−", Mod: "Ctrl",
};

export function shortName(key) {
  const parts = key === "+" ? ["+"] : key.split("+");
  return parts.map((part) => WORDS[part] || (part.length === 1 ? part.toUpperCase() : part)).join("+");
}

// "Mod+Shift+z" for an event; null for a modifier alone.
export function keyName(event) {
  if (["Shift", "Control", "Alt", "Meta", "AltGraph", "CapsLock", "Dead"].includes(event.key)) return null;
  const name = event.key === " " ? "Space" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  // Where ? or + is typed with Shift, Shift is part of the character.
  const shiftCounts = event.shiftKey && (name.length > 1 || name.toLowerCase() !== name.toUpperCase());
  return [
    event.ctrlKey || event.metaKey ? "Mod" : "",
    event.altKey && !event.getModifierState("AltGraph") ? "Alt" : "",
    shiftCounts ? "Shift" : "",
    name,
  ].filter(Boolean).join("+");
}

function digit(event) {
  const match = /^(?:Digit|Numpad)([1-9])$/.exec(event.code);
  return match && !event.ctrlKey && !event.metaKey && !event.altKey ? Number(match[1]) : null;
}

function isTyping(target) {
  if (!(target instanceof Element)) return false;
  if (target.closest("textarea, select, [contenteditable]")) return true;
  const input = target.closest("input");
  return input !== null && !["range", "checkbox", "button", "submit"].includes(input.type);
}

// Keys that a focused control uses itself.
function belongsTo(target, key) {
  if (!(target instanceof Element)) return false;
  if (target.matches("button, summary, a, [type=checkbox]")) return key === "Enter" || key === "Space";
  return target.matches("[type=range]") && /^(Arrow|Page|Home|End)/.test(key.replace("Shift+", ""));
}

export class Keys {
  // press(action, event), release(action, event), digit(number, event), confidence(number, event)
  constructor(on) {
    this.on = on;
    const stored = recall(STORED, {});
    this.enabled = stored.enabled !== false;
    this.map = this.#usual();
    for (const [action, key] of Object.entries(stored.map || {})) {
      if (action in ACTIONS && typeof key === "string") this.map[action] = key;
    }
    this.held = null;
    this.capture = null;
    document.addEventListener("keydown", (event) => this.#down(event));
    document.addEventListener("keyup", (event) => this.#up(event));
    window.addEventListener("blur", () => this.#letGo());
  }

  #usual() {
    return Object.fromEntries(Object.entries(ACTIONS).map(([name, [, key]]) => [name, key]));
  }

  // The former owner of the key gets this action's old one: none is left without.
  assign(action, key) {
    const owner = Object.keys(this.map).find((name) => this.map[name] === key);
    if (owner) this.map[owner] = this.map[action];
    this.map[action] = key;
    this.#store();
  }

  reset() {
    this.map = this.#usual();
    this.#store();
  }

  enable(enabled) {
    this.enabled = enabled;
    this.#store();
  }

  #store() {
    const changed = Object.entries(this.map).filter(([name, key]) => key !== ACTIONS[name][1]);
    remember(STORED, { map: Object.fromEntries(changed), enabled: this.enabled });
  }

  #down(event) {
    if (event.isComposing || event.defaultPrevented) return;
    if (this.capture) {
      this.#captured(event);
      return;
    }
    if (isTyping(event.target)) {
      if (event.key === "Escape" && !document.querySelector("dialog[open]")) event.target.blur();
      return;
    }
    if (document.querySelector("dialog[open]")) return;
    const number = digit(event);
    if (number !== null && this.enabled) {
      if (event.shiftKey && event.code.startsWith("Digit")) {
        if (number > 4) return;
        event.preventDefault();
        this.on.confidence(number, event);
        return;
      }
      event.preventDefault();
      this.on.digit(number, event);
      return;
    }
    const pressed = keyName(event);
    if (pressed === null || belongsTo(event.target, pressed)) return;
    const key = ALIASES[pressed] || pressed;
    const action = Object.keys(this.map).find((name) => this.map[name] === key);
    if (!action || (!this.enabled && key.length === 1 && action !== "help")) return;
    event.preventDefault();
    if (action === "hold") {
      if (!event.repeat) {
        this.held = event.code;
        this.on.press("hold", event);
      }
      return;
    }
    // A key that is held down steps and zooms on, but never decides twice.
    if (event.repeat && !["back", "forward", "back5", "forward5", "zoomIn", "zoomOut", "less", "more"].includes(action)) return;
    this.on.press(action, event);
  }

  #up(event) {
    if (this.held !== null && event.code === this.held) this.#letGo(event);
  }

  #letGo(event) {
    if (this.held === null) return;
    this.held = null;
    this.on.release("hold", event);
  }

  #captured(event) {
    const key = keyName(event);
    if (key === null) return;
    event.preventDefault();
    const { action, done } = this.capture;
    this.capture = null;
    // Digits choose candidates, Tab and Escape belong to the browser.
    const free = !/(^|\+)(Tab|Escape|[0-9])$/.test(key) || key === "0";
    if (free) this.assign(action, ALIASES[key] || key);
    done(free || key === "Escape" ? "" : `${shortName(key)} can not be given to an action`);
  }
}

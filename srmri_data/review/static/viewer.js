// The large canvas: LR and HR on one pixel grid, windowed from 16 bits, in every view.

const LAYERS_KEPT = 24;
const LITTLE_ENDIAN = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;
const MAX_ZOOM = 40;
const DIFFERENCE_GAIN = 2;

function rgb(r, g, b) {
  return LITTLE_ENDIAN
    ? ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0
    : ((r << 24) | (g << 16) | (b << 8) | 255) >>> 0;
}

const GREYS = Uint32Array.from({ length: 256 }, (_, v) => rgb(v, v, v));

// Black where both agree, orange where LR is brighter, blue where HR is.
const DIFFERENCES = Uint32Array.from({ length: 511 }, (_, n) => {
  const v = Math.min(1, (Math.abs(n - 255) * DIFFERENCE_GAIN) / 255);
  const [r, g, b] = n > 255 ? [255, 170, 60] : [80, 170, 255];
  return rgb(Math.round(v * r), Math.round(v * g), Math.round(v * b));
});

export class Viewer {
  constructor(canvas, about) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.rows = about.rows;
    this.cols = about.cols;
    [this.rowMm, this.colMm] = about.pixel_mm;
    this.defaults = { low: about.window.black, high: about.window.white };
    this.window = { ...this.defaults };
    this.view = "single";
    this.mix = 0.5;
    this.showLow = false;
    this.threshold = about.foreground;
    this.follow = true; // frame the anatomy of each item, until the reader zooms or pans
    this.boxes = new Map();
    this.zoom = 1;
    this.centre = { x: this.cols / 2, y: this.rows / 2 };
    this.low = null;
    this.high = null;
    this.layers = new Map();
    this.grey = new Uint8Array(65536);
    this.#buildGrey();
    this.resize();
  }

  // -- what to show ---------------------------------------------------------

  setWindow(low, high) {
    this.window = { low: Math.min(low, high - 1), high: Math.max(high, low + 1) };
    this.#buildGrey();
    this.layers.clear();
  }

  #buildGrey() {
    const { low, high } = this.window;
    const scale = 255 / (high - low);
    for (let v = 0; v < 65536; v += 1) {
      const grey = (v - low) * scale;
      this.grey[v] = grey < 0 ? 0 : grey > 255 ? 255 : grey + 0.5;
    }
  }

  // -- geometry -------------------------------------------------------------

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth, clientHeight } = this.canvas;
    const width = Math.max(1, Math.round(clientWidth * ratio));
    const height = Math.max(1, Math.round(clientHeight * ratio));
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
  }

  // Panes in canvas pixels: one, or LR and HR beside or above each other.
  panes() {
    const { width, height } = this.canvas;
    if (this.view !== "side") return [{ x: 0, y: 0, width, height }];
    const aspect = (this.cols * this.colMm) / (this.rows * this.rowMm);
    const gap = Math.max(2, Math.round(width / 400));
    const beside = Math.min((width - gap) / 2 / aspect, height);
    const above = Math.min(width / aspect, (height - gap) / 2);
    if (beside >= above) {
      const half = (width - gap) / 2;
      return [
        { x: 0, y: 0, width: half, height },
        { x: half + gap, y: 0, width: half, height },
      ];
    }
    const half = (height - gap) / 2;
    return [
      { x: 0, y: 0, width, height: half },
      { x: 0, y: half + gap, width, height: half },
    ];
  }

  // Canvas pixels per image pixel along x and y.
  scale(pane = this.panes()[0]) {
    const fit = Math.min(pane.width / (this.cols * this.colMm), pane.height / (this.rows * this.rowMm));
    return { x: fit * this.zoom * this.colMm, y: fit * this.zoom * this.rowMm, perMm: fit * this.zoom };
  }

  paneAt(x, y) {
    const panes = this.panes();
    return panes.find((p) => x >= p.x && x < p.x + p.width && y >= p.y && y < p.y + p.height) || panes[0];
  }

  // Zoom by a factor; the image point under (x, y), in canvas pixels, stays where it is.
  zoomBy(factor, x, y) {
    this.follow = false;
    const pane = x === undefined ? this.panes()[0] : this.paneAt(x, y);
    const dx = x === undefined ? 0 : x - pane.x - pane.width / 2;
    const dy = y === undefined ? 0 : y - pane.y - pane.height / 2;
    const before = this.scale(pane);
    this.zoom = Math.min(MAX_ZOOM, Math.max(1, this.zoom * factor));
    const after = this.scale(pane);
    this.centre.x += dx / before.x - dx / after.x;
    this.centre.y += dy / before.y - dy / after.y;
    this.#keepInside();
  }

  panBy(dx, dy) {
    this.follow = false;
    const { x, y } = this.scale();
    this.centre.x -= dx / x;
    this.centre.y -= dy / y;
    this.#keepInside();
  }

  // The anatomy, or when it is framed already the whole image.
  fit() {
    this.follow = !this.follow;
    this.zoom = 1;
    this.arrange();
  }

  // Bring zoom and centre in line with the pane's size and, when following, with the anatomy.
  arrange() {
    if (this.follow && this.low) {
      const box = this.anatomy();
      const pane = this.panes()[0];
      this.zoom = 1;
      const { x, y } = this.scale(pane);
      this.zoom = Math.min(MAX_ZOOM, Math.max(1, Math.min(pane.width / (box.width * x), pane.height / (box.height * y))));
      this.centre = { x: box.x + box.width / 2, y: box.y + box.height / 2 };
    }
    this.#keepInside();
  }

  // The box around the foreground of the LR slice, with a margin, in image pixels.
  anatomy() {
    let box = this.boxes.get(this.low.key);
    if (!box) {
      box = foregroundBox(this.low.pixels, this.rows, this.cols, this.threshold);
      this.boxes.set(this.low.key, box);
    }
    return box;
  }

  #keepInside() {
    const pane = this.panes()[0];
    const { x, y } = this.scale(pane);
    for (const [axis, size, shown] of [["x", this.cols, pane.width / x], ["y", this.rows, pane.height / y]]) {
      const margin = Math.min(shown, size) / 2;
      this.centre[axis] = Math.min(size - margin, Math.max(margin, this.centre[axis]));
    }
  }

  // Where the swipe's edge is, in canvas pixels.
  swipeX() {
    const pane = this.panes()[0];
    const { x } = this.scale(pane);
    return pane.x + pane.width / 2 + (this.mix * this.cols - this.centre.x) * x;
  }

  mixAt(canvasX) {
    const pane = this.panes()[0];
    const { x } = this.scale(pane);
    return Math.min(1, Math.max(0, (this.centre.x + (canvasX - pane.x - pane.width / 2) / x) / this.cols));
  }

  // -- layers: one small canvas per picture and window ------------------------

  #layer(name, make) {
    let layer = this.layers.get(name);
    if (layer) {
      this.layers.delete(name);
    } else {
      layer = document.createElement("canvas");
      layer.width = this.cols;
      layer.height = this.rows;
      const context = layer.getContext("2d");
      const image = context.createImageData(this.cols, this.rows);
      make(new Uint32Array(image.data.buffer));
      context.putImageData(image, 0, 0);
    }
    this.layers.set(name, layer);
    if (this.layers.size > LAYERS_KEPT) this.layers.delete(this.layers.keys().next().value);
    return layer;
  }

  greyLayer(image) {
    return this.#layer(image.key, (out) => {
      const { pixels } = image;
      const { grey } = this;
      for (let i = 0; i < out.length; i += 1) out[i] = GREYS[grey[pixels[i]]];
    });
  }

  // HR is brought to LR's contrast first, else the difference would show the scanner's gain.
  #differenceLayer() {
    return this.#layer(`difference ${this.low.key} ${this.high.key}`, (out) => {
      const { grey, defaults: { low: black }, low: { pixels: a }, high: { pixels: b } } = this;
      const gain = contrastGain(a, b, black, this.threshold);
      for (let i = 0; i < out.length; i += 1) {
        const v = Math.round(black + (b[i] - black) * gain);
        out[i] = DIFFERENCES[grey[a[i]] - grey[v < 0 ? 0 : v > 65535 ? 65535 : v] + 255];
      }
    });
  }

  // HR's outlines in yellow on LR: where they run beside LR's own, the slice is another one.
  #edgeLayer() {
    return this.#layer(`edges ${this.low.key} ${this.high.key}`, (out) => {
      const { rows, cols, grey, low: { pixels: a }, high: { pixels: b } } = this;
      const strength = sobel(b, grey, rows, cols);
      const [from, to] = percentiles(strength, 0.86, 0.985);
      const scale = 1 / Math.max(1, to - from);
      for (let i = 0; i < out.length; i += 1) {
        const v = grey[a[i]];
        const w = Math.min(0.9, Math.max(0, (strength[i] - from) * scale));
        out[i] = rgb(v + w * (255 - v), v + w * (214 - v), v * (1 - w) + w * 40);
      }
    });
  }

  // -- drawing --------------------------------------------------------------

  render() {
    const { context, canvas } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!this.low || !this.high) return;
    const low = () => this.greyLayer(this.low);
    const high = () => this.greyLayer(this.high);
    const [pane, second] = this.panes();
    if (this.view === "side") {
      this.#draw(pane, low());
      this.#draw(second, this.showLow ? low() : high());
    } else if (this.showLow) {
      this.#draw(pane, low());
    } else if (this.view === "difference") {
      this.#draw(pane, this.#differenceLayer());
    } else if (this.view === "edges") {
      this.#draw(pane, this.#edgeLayer());
    } else if (this.view === "opacity") {
      this.#draw(pane, low());
      this.#draw(pane, high(), { alpha: this.mix });
    } else if (this.view === "swipe") {
      this.#draw(pane, low());
      const edge = this.swipeX();
      this.#draw(pane, high(), { clip: (path) => path.rect(edge, 0, canvas.width, canvas.height) });
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.fillStyle = "rgb(255 255 255 / 70%)";
      context.fillRect(Math.round(edge) - 1, 0, 2, canvas.height);
    } else if (this.view === "checker") {
      this.#draw(pane, low());
      this.#draw(pane, high(), { clip: (path) => this.#squares(path, pane) });
    } else {
      this.#draw(pane, high());
    }
  }

  #draw(pane, layer, { alpha = 1, clip = null } = {}) {
    const { context } = this;
    const { x, y } = this.scale(pane);
    context.save();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.beginPath();
    context.rect(pane.x, pane.y, pane.width, pane.height);
    context.clip();
    if (clip) {
      context.beginPath();
      clip(context);
      context.clip();
    }
    context.globalAlpha = alpha;
    // Close up, a pixel shall be seen as the square it is.
    context.imageSmoothingEnabled = Math.max(x, y) < 8;
    context.setTransform(
      x, 0, 0, y,
      pane.x + pane.width / 2 - this.centre.x * x,
      pane.y + pane.height / 2 - this.centre.y * y,
    );
    context.drawImage(layer, 0, 0);
    context.restore();
  }

  // Squares of equal size on the screen, fixed to the anatomy.
  #squares(path, pane) {
    const { x, y, perMm } = this.scale(pane);
    const left = pane.x + pane.width / 2 - this.centre.x * x;
    const top = pane.y + pane.height / 2 - this.centre.y * y;
    const side = (Math.min(this.cols * this.colMm, this.rows * this.rowMm) * perMm) / 7;
    for (let row = 0; row * side < this.rows * y; row += 1) {
      for (let col = row % 2; col * side < this.cols * x; col += 2) {
        path.rect(left + col * side, top + row * side, side, side);
      }
    }
  }

  // A small picture of one image's anatomy for the candidate strip, averaged straight from the
  // pixels: ten of them are due with every item, and a full layer for each would be felt.
  thumbnail(pixels, canvas, width, height) {
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const context = canvas.getContext("2d", { alpha: false });
    const image = context.createImageData(width, height);
    const out = new Uint32Array(image.data.buffer);
    const box = this.anatomy();
    const mmPerPixel = Math.max((box.width * this.colMm) / width, (box.height * this.rowMm) / height);
    const taps = (middle, size, count, limit) => Array.from({ length: count }, (_, n) => {
      const start = middle + (n - count / 2) * size;
      const inside = [1 / 6, 3 / 6, 5 / 6].map((share) => Math.floor(start + share * size));
      return [...new Set(inside)].filter((at) => at >= 0 && at < limit);
    });
    const rows = taps(box.y + box.height / 2, mmPerPixel / this.rowMm, height, this.rows);
    const cols = taps(box.x + box.width / 2, mmPerPixel / this.colMm, width, this.cols);
    for (let y = 0, i = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1, i += 1) {
        let sum = 0;
        for (const row of rows[y]) for (const col of cols[x]) sum += this.grey[pixels[row * this.cols + col]];
        const count = rows[y].length * cols[x].length;
        out[i] = GREYS[count ? Math.round(sum / count) : 0];
      }
    }
    context.putImageData(image, 0, 0);
  }
}

function foregroundBox(pixels, rows, cols, threshold) {
  const perRow = new Uint32Array(rows);
  const perCol = new Uint32Array(cols);
  for (let row = 0, i = 0; row < rows; row += 1) {
    for (let col = 0; col < cols; col += 1, i += 1) {
      if (pixels[i] > threshold) {
        perRow[row] += 1;
        perCol[col] += 1;
      }
    }
  }
  // A few bright pixels of noise or a ghost do not count.
  const range = (counts) => {
    const least = Math.max(1, 0.04 * counts.reduce((a, b) => Math.max(a, b), 0));
    const first = counts.findIndex((count) => count > least);
    return first < 0 ? [0, counts.length] : [first, counts.findLastIndex((count) => count > least) + 1];
  };
  const [top, bottom] = range(perRow);
  const [left, right] = range(perCol);
  const margin = 0.09 * Math.max(bottom - top, right - left);
  const x = Math.max(0, left - margin);
  const y = Math.max(0, top - margin);
  return { x, y, width: Math.min(cols, right + margin) - x, height: Math.min(rows, bottom + margin) - y };
}

// Factor, above black, that brings b nearest to a over the foreground they share.
function contrastGain(a, b, black, threshold) {
  let [n, products, squares] = [0, 0, 0];
  for (let i = 0; i < a.length; i += 5) {
    if (a[i] <= threshold || b[i] <= threshold) continue;
    n += 1;
    products += (a[i] - black) * (b[i] - black);
    squares += (b[i] - black) ** 2;
  }
  const gain = n > 50 && squares > 0 ? products / squares : 1;
  // Slices that have little in common say nothing about contrast.
  return gain > 0.4 && gain < 2.5 ? gain : 1;
}

function sobel(pixels, grey, rows, cols) {
  const values = new Uint8Array(rows * cols);
  for (let i = 0; i < values.length; i += 1) values[i] = grey[pixels[i]];
  const strength = new Uint16Array(rows * cols);
  for (let row = 1; row < rows - 1; row += 1) {
    for (let i = row * cols + 1, end = i + cols - 2; i < end; i += 1) {
      const above = i - cols;
      const below = i + cols;
      const falling = values[below + 1] - values[above - 1];
      const rising = values[above + 1] - values[below - 1];
      const dx = falling + rising + 2 * (values[i + 1] - values[i - 1]);
      const dy = falling - rising + 2 * (values[below] - values[above]);
      strength[i] = Math.sqrt(dx * dx + dy * dy);
    }
  }
  return strength;
}

function percentiles(values, ...shares) {
  const counts = new Uint32Array(2048);
  for (let i = 0; i < values.length; i += 1) counts[Math.min(2047, values[i])] += 1;
  return shares.map((share) => {
    let left = share * values.length;
    return counts.findIndex((count) => (left -= count) < 0);
  });
}

// The two small charts: where this pair lies along the volume, and what each voter scored.

const SVG = "http://www.w3.org/2000/svg";
const VOTER_NAMES = { pca: "PCA", lpips: "LPIPS", ssim: "SSIM" };
const SCORES_REACH = 20;

function element(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function linear(from, to, start, end) {
  const scale = to === from ? 0 : (end - start) / (to - from);
  return (value) => start + (value - from) * scale;
}

function niceStep(span) {
  return [1, 2, 5, 10, 20, 50, 100, 200, 500].find((step) => span / step <= 4) || 1000;
}

function marker(voter, x, y) {
  const attributes = { class: `mark voter-${voter}` };
  if (voter === "pca") return element("circle", { ...attributes, cx: x, cy: y, r: 5 });
  if (voter === "lpips") return element("path", { ...attributes, d: `M${x} ${y - 5}l4.6 8h-9.2z` });
  return element("rect", { ...attributes, x: x - 2.5, y: y - 2.5, width: 5, height: 5 });
}

// Residual = HR slice minus the one geometry gives, in HR slices; a straight line when nothing moved.
// Without `lr` the slices are counted from this one.
export function drawCurve(svg, item, { hr, lr, answers, revealed, onOpen }) {
  const [width, height] = [300, 150];
  const [left, right, top, bottom] = [30, 8, 8, 24];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  // In a blind review, proposals for other queued items stay covered, too.
  const points = item.neighbours.map((n) => {
    const answer = n.item === null ? null : answers(n.item);
    const mine = typeof answer === "number";
    return { ...n, mine, found: mine ? answer : n.hr_slice };
  }).filter((n) => n.found !== null).map((n) => ({ ...n, residual: n.found - n.expected }));
  const here = hr - item.expected;
  const votes = revealed ? Object.entries(item.votes).map(([voter, vote]) => [voter, vote - item.expected]) : [];
  // One far-off vote must not flatten the rest: it is drawn at the edge.
  const sorted = [...points.filter((p) => p.status === "auto" || p.mine).map((p) => p.residual), here].sort((a, b) => a - b);
  const low = Math.floor(Math.min(sorted[Math.floor(sorted.length * 0.05)], here) - 2);
  const high = Math.ceil(Math.max(sorted[Math.ceil(sorted.length * 0.95) - 1], here) + 2);
  const slices = [0, ...item.neighbours.map((n) => n.distance)];
  const x = linear(Math.min(...slices) - 0.5, Math.max(...slices) + 0.5, left, width - right);
  const y = linear(low, high, height - bottom, top);
  const clamp = (value) => y(Math.min(high, Math.max(low, value)));
  const nodes = [];
  nodes.push(element("rect", { class: "band", x: x(0) - 5, y: top, width: 10, height: height - top - bottom }));
  const step = niceStep(high - low);
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) {
    nodes.push(element("line", { class: tick === 0 ? "zero" : "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
    nodes.push(element("text", { x: left - 5, y: y(tick) + 4, "text-anchor": "end" }, tick > 0 ? `+${tick}` : `${tick}`.replace("-", "−")));
  }
  const xStep = niceStep((slices.length - 1) * 0.7);
  const origin = lr ?? 0;
  for (let tick = Math.ceil((origin + Math.min(...slices)) / xStep) * xStep; tick <= origin + Math.max(...slices); tick += xStep) {
    nodes.push(element("text", { x: x(tick - origin), y: height - 7, "text-anchor": "middle" }, `${tick}`.replace("-", "−")));
  }
  for (const point of points) {
    const kind = point.mine ? "mine" : point.status === "auto" ? "auto" : "queued";
    const dot = element("circle", { class: `dot ${kind}`, cx: x(point.distance), cy: clamp(point.residual), r: 3.2 });
    if (lr !== null) {
      dot.append(element("title", {}, `LR ${lr + point.distance}: HR ${point.found}`));
      dot.addEventListener("click", () => onOpen(point.item));
    }
    nodes.push(dot);
  }
  for (const [voter, residual] of votes) nodes.push(marker(voter, x(0), clamp(residual)));
  nodes.push(element("path", { class: "here", d: `M${x(0) - 7} ${clamp(here)}h14` }));
  svg.replaceChildren(...nodes);
  const offset = here >= 0 ? `+${here.toFixed(1)}` : `−${Math.abs(here).toFixed(1)}`;
  svg.setAttribute("aria-label", `${lr === null ? "This pair" : `LR slice ${lr} with HR ${hr}`}: ${offset} HR slices from geometry, among ${points.length} neighbouring slices`);
}

// One line per voter over the HR slices around; high is alike.
export function drawScores(svg, item, { hr, first, revealed }) {
  const voters = Object.keys(item.scores);
  if (!revealed || !voters.length) {
    svg.replaceChildren();
    svg.setAttribute("viewBox", "0 0 300 1");
    svg.setAttribute("aria-label", "Covered until you have decided");
    return;
  }
  const [width, row, left, right] = [300, 44, 48, 8];
  const height = row * voters.length + 18;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const count = item.scores[voters[0]].length;
  const middle = Math.round(item.expected);
  const picks = [hr, ...Object.values(item.votes)].filter((pick) => Math.abs(pick - middle) < 3 * SCORES_REACH);
  const from = Math.max(first, Math.min(middle - SCORES_REACH, ...picks));
  const to = Math.min(first + count - 1, Math.max(middle + SCORES_REACH, ...picks));
  const x = linear(from, to, left, width - right);
  const nodes = [];
  if (hr >= from && hr <= to) {
    nodes.push(element("line", { class: "here", x1: x(hr), x2: x(hr), y1: 2, y2: height - 16 }));
  }
  voters.forEach((voter, n) => {
    const scores = item.scores[voter].slice(from - first, to - first + 1);
    const y = linear(Math.min(...scores), Math.max(...scores), n * row + 8, (n + 1) * row - 6);
    const path = scores.map((score, i) => `${i ? "L" : "M"}${x(from + i).toFixed(1)} ${y(score).toFixed(1)}`).join("");
    nodes.push(element("text", { x: 0, y: n * row + row / 2 + 4 }, VOTER_NAMES[voter] || voter));
    nodes.push(element("path", { class: `line voter-${voter}`, d: path }));
    const vote = item.votes[voter];
    if (vote >= from && vote <= to) nodes.push(marker(voter, x(vote), y(scores[vote - from])));
  });
  const step = niceStep((to - from) * 0.8);
  for (let tick = Math.ceil(from / step) * step; tick <= to; tick += step) {
    nodes.push(element("text", { x: x(tick), y: height - 4, "text-anchor": "middle" }, `${tick}`));
  }
  svg.replaceChildren(...nodes);
  const said = Object.entries(item.votes).map(([voter, vote]) => `${VOTER_NAMES[voter] || voter} ${vote}`);
  svg.setAttribute("aria-label", `Similarity by HR slice; picks: ${said.join(", ")}`);
}

"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const el = (tag, cls, text) => { const e = document.createElement(tag); if (cls) e.className = cls; if (text !== undefined) e.textContent = text; return e; };
// In the order of data.kinds.
const colors = ["#111827", "#7c3aed", "#a78bfa", "#0891b2", "#db2777", "#16a34a", "#ca8a04", "#3b82f6", "#14b8a6", "#e8ebf0", "#f59e0b", "#f97316", "#dc2626"];
const dark = matchMedia("(prefers-color-scheme: dark)");
const color = k => dark.matches && k === 9 ? "#262c36" : dark.matches && k === 0 ? "#cbd5e1" : colors[k];
const overlapping = data.kinds.length - 1, free = 9;
const units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
function size(n) {
  let u = 0;
  while (n >= 1024 && u < units.length - 1) { n /= 1024; u++; }
  return (Number.isInteger(n) ? n : n.toFixed(1)) + " " + units[u];
}
const hex = n => "0x" + n.toString(16);
function runs(text, parse) {
  const out = [];
  if (!text) return out;
  for (const part of text.split(" ")) {
    const at = part.indexOf("*"), cell = parse(part.slice(at + 1));
    for (let n = at < 0 ? 1 : +part.slice(0, at); n > 0; n--) out.push(cell);
  }
  return out;
}
const cells = runs(data.cells, s => s ? s.split(",").map(p => [p.charCodeAt(0) - 97, +p.slice(1)]) : []);
const marked = new Map();
data.findings.forEach((f, i) => { if (f.cell >= 0) { if (!marked.has(f.cell)) marked.set(f.cell, []); marked.get(f.cell).push(i); } });

$("name").textContent = data.filename;
$("summary").textContent = data.verdict + "; file of " + size(data["file-size"]) + (data["cluster-size"] ? ", clusters of " + size(data["cluster-size"]) : "") +
  (data["allocated-clusters"] ? "; " + (100 * data["fragmented-clusters"] / data["allocated-clusters"]).toFixed(1) + "% fragmented, data in " + data.pieces + " pieces, the longest " + size(data["longest-piece"]) : "");

// The map of the file. A cell shows its owners as bands of their shares.
const canvas = $("file"), ctx = canvas.getContext("2d"), scroll = $("scroll");
let side = 0, perRow = 1, picked = -1;
const fit = () => Math.max(3, Math.min(22, Math.floor(Math.sqrt(scroll.clientWidth * 420 / Math.max(1, cells.length)))));
function drawCell(i) {
  const x = i % perRow * side, y = Math.floor(i / perRow) * side, gap = side > 5 ? 1 : 0, w = side - gap, h = side - gap;
  let total = 0, over = 0;
  for (const [k, n] of cells[i]) k === overlapping ? over = n : total += n;
  let from = 0;
  for (const [k, n] of cells[i]) {
    if (k === overlapping) continue;
    const to = from + n / total * h;
    ctx.fillStyle = color(k);
    ctx.fillRect(x, y + from, w, to - from + .5);
    from = to;
  }
  if (over) { ctx.fillStyle = color(overlapping); ctx.beginPath(); ctx.moveTo(x, y); ctx.lineTo(x + w, y); ctx.lineTo(x, y + h); ctx.fill(); }
  if (marked.has(i)) { ctx.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--mark"); ctx.lineWidth = side > 8 ? 2 : 1; ctx.strokeRect(x + .5, y + .5, w - 1, h - 1); }
  if (i === picked) { ctx.strokeStyle = getComputedStyle(document.documentElement).getPropertyValue("--pick"); ctx.lineWidth = 2; ctx.strokeRect(x + 1, y + 1, Math.max(2, w - 2), Math.max(2, h - 2)); }
}
function draw() {
  if (!cells.length) { canvas.width = canvas.height = 0; return; }
  perRow = Math.max(1, Math.floor((scroll.clientWidth - 1) / side));
  const rows = Math.ceil(cells.length / perRow), scale = window.devicePixelRatio || 1;
  const w = Math.min(perRow, cells.length) * side, h = rows * side;
  canvas.style.width = w + "px"; canvas.style.height = h + "px";
  canvas.width = w * scale; canvas.height = h * scale;
  ctx.setTransform(scale, 0, 0, scale, 0, 0);
  for (let i = 0; i < cells.length; i++) drawCell(i);
}
function zoom(by) { side = Math.max(3, Math.min(40, Math.round(side * by) === side ? side + Math.sign(by - 1) : Math.round(side * by))); draw(); reveal(); }
function describe(i) {
  const per = data["clusters-per-cell"], cs = data["cluster-size"];
  let s = (per === 1 ? "cluster " + i : "clusters " + i * per + " to " + ((i + 1) * per - 1)) + " at " + hex(i * per * cs);
  for (const [k, n] of cells[i]) s += "\n" + data.kinds[k] + (per === 1 ? "" : ": " + n);
  for (const f of (marked.get(i) || []).slice(0, 4)) s += "\n" + data.findings[f].code + ": " + data.findings[f].message;
  return s;
}
function reveal() {
  if (picked < 0) return;
  const y = Math.floor(picked / perRow) * side;
  if (y < scroll.scrollTop) scroll.scrollTop = y;
  if (y + side > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = y + side - scroll.clientHeight;
}
function pick(i) {
  if (i < 0 || i >= cells.length) return;
  const was = picked;
  picked = i;
  if (was >= 0) drawCell(was);
  drawCell(i);
  reveal();
  $("where").textContent = describe(i).replaceAll("\n", "; ");
}
function cellAt(e) {
  const r = canvas.getBoundingClientRect(), x = Math.floor((e.clientX - r.left) / side), y = Math.floor((e.clientY - r.top) / side);
  const i = y * perRow + x;
  return x >= 0 && x < perRow && i >= 0 && i < cells.length ? i : -1;
}
const tip = $("tip");
function show(e, text) {
  tip.textContent = text; tip.hidden = false;
  tip.style.left = Math.min(e.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
  tip.style.top = Math.min(e.clientY + 14, innerHeight - tip.offsetHeight - 8) + "px";
}
canvas.addEventListener("mousemove", e => { const i = cellAt(e); i < 0 ? tip.hidden = true : show(e, describe(i)); });
canvas.addEventListener("mouseleave", () => tip.hidden = true);
canvas.addEventListener("click", e => pick(cellAt(e)));
let at = -1;
function finding(i) {
  const n = data.findings.length;
  if (!n) return;
  at = (i + n) % n;
  const f = data.findings[at];
  if (f.cell >= 0) pick(f.cell);
  if (f["guest-cell"] >= 0) mark(f["guest-cell"]);
  const li = $("findings").children[at];
  li.scrollIntoView({ block: "nearest" });
}
addEventListener("keydown", e => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: perRow, ArrowUp: -perRow };
  if (e.key in steps) { pick(Math.max(0, Math.min(cells.length - 1, Math.max(0, picked) + (picked < 0 ? 0 : steps[e.key])))); e.preventDefault(); }
  else if (e.key === "+" || e.key === "=") zoom(1.4);
  else if (e.key === "-") zoom(1 / 1.4);
  else if (e.key === "n") finding(at + 1);
  else if (e.key === "p") finding(at - 1);
  else if (e.key === "Home") pick(0);
  else if (e.key === "End") pick(cells.length - 1);
});
$("zoom-in").addEventListener("click", () => zoom(1.4));
$("zoom-out").addEventListener("click", () => zoom(1 / 1.4));
$("file-scale").textContent = cells.length ? "a square is " + (data["clusters-per-cell"] === 1 ? "a cluster" : data["clusters-per-cell"] + " clusters") + ", " + size(data["clusters-per-cell"] * data["cluster-size"]) : "(its cluster size is not known)";
function legend() {
  $("legend").replaceChildren(...data.kinds.map((k, i) => {
    if (!data.totals[i]) return "";
    const li = el("li"), box = el("i");
    box.style.background = color(i);
    li.append(box, k + ": " + size(data.totals[i] * data["cluster-size"]));
    return li;
  }).filter(x => x));
}

// The disk: a row each for the active disk, snapshots and bitmaps.
const disk = data.disk, guestColors = [free, 2, 7, 8], rows = [];
$("disk-scale").textContent = disk.rows.length ? size(disk.size) + ", a column is " + size(disk["bytes-per-cell"]) : "";
for (const r of disk.rows) {
  const row = el("div", "row"), c = el("canvas");
  row.append(el("span", "", (r.what === "disk" ? "" : r.what + " ") + r.name), c,
    el("span", "sum", r.note || (r.what === "bitmap" ? size(r.bytes[0]) + " dirty" : size(r.bytes[2] + r.bytes[3]) + " stored")));
  row.firstChild.title = row.firstChild.textContent;
  $("rows").append(row);
  const cells = runs(r.cells, s => s.split(",").map(Number));
  rows.push({ r, c, cells });
  const column = e => Math.floor((e.clientX - c.getBoundingClientRect().left) / c.clientWidth * cells.length);
  c.addEventListener("mousemove", e => {
    const i = column(e), v = cells[i];
    if (!v) { tip.hidden = true; return; }
    const pct = n => Math.round(n / 2.55) + "%";
    show(e, "guest " + hex(i * disk["bytes-per-cell"]) + ", " + size(disk["bytes-per-cell"]) + "\n" +
      (r.what === "bitmap" ? pct(v[0]) + " dirty" : v.map((n, k) => n ? pct(n) + " " + disk.kinds[k] : "").filter(x => x).join("\n")));
  });
  c.addEventListener("mouseleave", () => tip.hidden = true);
  c.addEventListener("click", e => mark(column(e)));
}
if (disk["left-out"]) $("rows").append(el("p", "hint", "not shown: " + disk["left-out"].join(", ")));
let guestMark = -1;
function mark(i) {
  guestMark = i;
  drawRows();
  $("guest-where").textContent = "guest " + hex(i * disk["bytes-per-cell"]) + " to " + hex(Math.min(disk.size, (i + 1) * disk["bytes-per-cell"]));
}
function drawRows() {
  for (const { r, c, cells } of rows) {
    const scale = window.devicePixelRatio || 1, w = c.clientWidth, h = 18, g = c.getContext("2d");
    c.width = Math.max(1, w * scale); c.height = h * scale;
    g.setTransform(scale, 0, 0, scale, 0, 0);
    g.fillStyle = color(free); g.fillRect(0, 0, w, h);
    const step = w / Math.max(1, cells.length);
    cells.forEach((v, i) => {
      let y = h;
      const order = r.what === "bitmap" ? [[0, "#16a34a"]] : [[2, color(7)], [3, color(8)], [1, color(2)]];
      for (const [k, fill] of order) {
        if (!v[k]) continue;
        const part = Math.max(2, v[k] / 255 * h);
        g.fillStyle = fill; g.fillRect(i * step, y - part, Math.max(step, 1) + .3, part);
        y -= part;
      }
    });
    if (guestMark >= 0) { g.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--mark"); g.fillRect(guestMark * step, 0, Math.max(2, step), h); }
  }
}
function guestLegend() {
  $("guest-legend").replaceChildren(...(disk.rows.length ? [["data", 7], ["compressed", 8], ["zeros", 2], ["unallocated", free], ["dirty", 5]] : []).map(([text, k]) => {
    const li = el("li"), box = el("i");
    box.style.background = color(k);
    li.append(box, text);
    return li;
  }));
}

// The findings, each linked to its place.
data.findings.forEach((f, i) => {
  const li = el("li", f.severity), a = el("a", f.cell >= 0 || f["guest-cell"] >= 0 ? "linked" : "");
  if (a.className) { a.href = "#"; a.addEventListener("click", e => { e.preventDefault(); finding(i); }); }
  a.append(el("span", "code", f.code), f.severity + ": " + f.message + (f.offset !== undefined ? " (at " + hex(f.offset) + ")" : ""));
  li.append(a);
  $("findings").append(li);
});
if (data["findings-omitted"]) $("findings").append(el("li", "hint", data["findings-omitted"] + " more are not listed"));
$("findings-count").textContent = data.findings.length ? String(data.findings.length + (data["findings-omitted"] || 0)) : "none";

function all() { legend(); guestLegend(); draw(); drawRows(); }
side = fit();
all();
let timer;
new ResizeObserver(() => { clearTimeout(timer); timer = setTimeout(() => { draw(); drawRows(); }, 100); }).observe(scroll);
dark.addEventListener("change", all);
document.documentElement.dataset.ready = String(cells.length);
})();

'use strict';
const run = JSON.parse(document.getElementById('data').textContent);
const $ = (id) => document.getElementById(id);
const tip = $('tip');

function element(name, attributes, ...children) {
  const svg = ['svg', 'path', 'line', 'text', 'circle', 'rect', 'g', 'clipPath'].includes(name);
  const node = svg ? document.createElementNS('http://www.w3.org/2000/svg', name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function format(value) {
  if (value === null || value === undefined || !isFinite(value)) return '–';
  const size = Math.abs(value);
  if (value === 0 || (Number.isInteger(value) && size < 1e15)) return value.toLocaleString('en-US');
  if (size >= 1e6 || size < 1e-3) return value.toExponential(3);
  return value.toLocaleString('en-US', { maximumSignificantDigits: 5 });
}

function showTip(event, lines) {
  tip.replaceChildren(...lines.map(([colour, text]) => {
    const line = element('div', {});
    if (colour) line.append(element('i', { style: `background:${colour}` }));
    line.append(text);
    return line;
  }));
  tip.style.display = 'block';
  const box = tip.getBoundingClientRect();
  const left = event.clientX + 16 + box.width > innerWidth ? event.clientX - 16 - box.width : event.clientX + 16;
  const top = Math.min(event.clientY + 12, innerHeight - box.height - 4);
  tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, top)}px)`;
}

const hideTip = () => { tip.style.display = 'none'; };

/* Curves */

// Ticks at round numbers; for epochs and updates at whole ones.
function ticks(low, high, count, whole) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  let step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  if (whole) step = Math.max(1, Math.round(step));
  const result = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) result.push(i * step + 0);
  return [result, step];
}

function tickText(value, step) {
  const size = Math.max(Math.abs(value), step);
  if (size >= 1e6 || step < 1e-4) return value === 0 ? '0' : value.toExponential(step < Math.abs(value) / 20 ? 2 : 1).replace('.0e', 'e');
  return value.toLocaleString('en-US', { maximumFractionDigits: Math.max(0, Math.ceil(-Math.log10(step) - 1e-9)) });
}

function drawChart(chart, number) {
  const box = element('div', { class: 'chart' }, element('h3', {}, chart.title));
  const legend = element('div', { class: 'legend' });
  const svg = element('svg', { role: 'img', 'aria-label': chart.title });
  box.append(legend, svg);
  $('charts').append(box);
  const colour = (i) => `var(--c${i % 8})`;
  const hidden = new Set();
  const all = chart.series.flatMap((s) => s.points.map((p) => p[0]));
  const full = [Math.min(...all), Math.max(...all)];
  let view = full, drag = null, scales = null;
  const margin = { left: 58, right: 12, top: chart.unit ? 22 : 8, bottom: 34 };

  chart.series.forEach((series, i) => {
    const button = element('button', { type: 'button' }, element('i', { style: `background:${colour(i)}` }), series.name);
    button.onclick = () => {
      hidden.has(i) ? hidden.delete(i) : hidden.add(i);
      button.classList.toggle('off', hidden.has(i));
      draw();
    };
    legend.append(button);
  });

  // The points of a line in the view and one more at each side, so that the line reaches the edges.
  function visible(points) {
    let first = points.findIndex((p) => p[0] >= view[0]);
    if (first < 0) return [];
    let last = points.length - 1;
    while (last > first && points[last][0] > view[1]) last--;
    return points.slice(Math.max(0, first - 1), last + 2);
  }

  function draw() {
    svg.replaceChildren();
    const width = svg.clientWidth || 430, height = 230;
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const shown = chart.series.map((s, i) => [s, i]).filter(([, i]) => !hidden.has(i));
    const inside = shown.flatMap(([s]) => s.points.filter((p) => p[0] >= view[0] && p[0] <= view[1]))
      .map((p) => p[1]).filter((v) => v !== null);
    let low = Math.min(...inside), high = Math.max(...inside);
    if (!inside.length) [low, high] = [0, 1];
    const extent = high - low || Math.abs(high) || 1;
    [low, high] = [low - extent * 0.05, high + extent * 0.05];
    const [x0, x1] = view[0] < view[1] ? view : [view[0] - 1, view[1] + 1];
    const x = (v) => margin.left + (v - x0) / (x1 - x0) * (width - margin.left - margin.right);
    const y = (v) => margin.top + (high - v) / (high - low) * (height - margin.top - margin.bottom);
    scales = { x, y, width, back: (px) => x0 + (px - margin.left) / (width - margin.left - margin.right) * (x1 - x0) };
    const [yTicks, yStep] = ticks(low, high, 5, false);
    for (const value of yTicks) {
      svg.append(element('line', { x1: margin.left, x2: width - margin.right, y1: y(value), y2: y(value), stroke: 'var(--line)' }),
        element('text', { x: margin.left - 6, y: y(value) + 4, 'text-anchor': 'end' }, tickText(value, yStep)));
    }
    if (chart.unit) svg.append(element('text', { x: margin.left - 6, y: 10, 'text-anchor': 'end' }, chart.unit.trim()));
    const [xTicks, xStep] = ticks(x0, x1, Math.max(2, Math.floor(width / 90)), true);
    for (const value of xTicks) {
      svg.append(element('text', { x: x(value), y: height - margin.bottom + 16, 'text-anchor': 'middle' }, tickText(value, xStep)));
    }
    svg.append(element('text', { x: (margin.left + width - margin.right) / 2, y: height - 3, 'text-anchor': 'middle' }, chart.x));
    // Lines that leave the view end at the edges of the plot.
    const edges = { x: margin.left - 3, y: 0, width: width - margin.left - margin.right + 6, height };
    svg.append(element('clipPath', { id: `clip-${number}` }, element('rect', edges)));
    const clip = element('g', { 'clip-path': `url(#clip-${number})` });
    for (const [series, i] of shown) {
      let path = '', pen = false;
      for (const [px, py] of visible(series.points)) {
        if (py === null) { pen = false; continue; }
        path += `${pen ? 'L' : 'M'}${x(px).toFixed(1)} ${y(py).toFixed(1)}`;
        pen = true;
      }
      clip.append(element('path', { d: path, fill: 'none', stroke: colour(i), 'stroke-width': 1.8, 'stroke-linejoin': 'round' }));
      if (series.points.length <= 60) {
        for (const [px, py] of series.points) {
          if (py !== null && px >= x0 && px <= x1) clip.append(element('circle', { cx: x(px), cy: y(py), r: 2.2, fill: colour(i) }));
        }
      }
    }
    svg.append(clip, element('g', { class: 'cursor' }));
  }

  const pointer = (event) => event.clientX - svg.getBoundingClientRect().left;

  function nearest(points, at) {
    let best = null;
    for (const point of points) if (best === null || Math.abs(point[0] - at) < Math.abs(best[0] - at)) best = point;
    return best;
  }

  function hover(event) {
    const layer = svg.querySelector('.cursor');
    layer.replaceChildren();
    const at = scales.back(pointer(event));
    if (drag !== null) {
      const [from, to] = [drag, pointer(event)].sort((a, b) => a - b);
      layer.append(element('rect', { x: from, y: margin.top, width: to - from, height: 230 - margin.top - margin.bottom, fill: 'var(--c0)', opacity: 0.15 }));
    }
    const shown = chart.series.map((s, i) => [s, i]).filter(([s, i]) => !hidden.has(i) && s.points.length);
    const inView = shown.flatMap(([s]) => s.points.filter((p) => p[0] >= view[0] && p[0] <= view[1]));
    const focus = nearest(inView, at);
    if (!focus) return hideTip();
    layer.append(element('line', { x1: scales.x(focus[0]), x2: scales.x(focus[0]), y1: margin.top, y2: 230 - margin.bottom, stroke: 'var(--faint)', 'stroke-dasharray': '3 3' }));
    const lines = [[null, `${chart.x} ${format(focus[0])}`]];
    for (const [series, i] of shown) {
      const point = nearest(series.points, focus[0]);
      if (point[1] !== null) layer.append(element('circle', { cx: scales.x(point[0]), cy: scales.y(point[1]), r: 4, fill: colour(i) }));
      lines.push([colour(i), `${series.name} ${format(point[1])}${chart.unit}`]);
    }
    showTip(event, lines);
  }

  svg.addEventListener('pointermove', hover);
  svg.addEventListener('pointerdown', (event) => { drag = pointer(event); svg.setPointerCapture(event.pointerId); });
  svg.addEventListener('pointerup', (event) => {
    const [from, to] = [drag, pointer(event)].sort((a, b) => a - b);
    drag = null;
    if (to - from > 6) {
      view = [Math.max(full[0], scales.back(from)), Math.min(full[1], scales.back(to))];
      draw();
    }
    hover(event);
  });
  svg.addEventListener('pointercancel', () => { drag = null; });
  svg.addEventListener('pointerleave', () => { hideTip(); svg.querySelector('.cursor').replaceChildren(); });
  svg.addEventListener('dblclick', () => { view = full; draw(); });
  new ResizeObserver(draw).observe(svg);
  draw();
}

/* Confusion matrix */

const MOST = 30;

function drawMatrix(all) {
  const { classes, counts } = run.confusion;
  const rows = new Map(classes.map((_, i) => [i, new Map()]));
  for (const [row, column, count] of counts) rows.get(row).set(column, count);
  let chosen = classes.map((_, i) => i);
  if (!all && classes.length > MOST) {
    // The classes of the pairs with the most errors.
    const pairs = counts.filter(([row, column]) => row !== column).sort((a, b) => b[2] - a[2]);
    const most = new Set(pairs.flatMap(([row, column]) => [row, column]).concat(chosen));
    chosen = [...most].slice(0, MOST).sort((a, b) => a - b);
  }
  const named = chosen.length <= 60;
  const short = (name) => name.length > 22 ? name.slice(0, 21) + '…' : name;
  const canvas = element('canvas', {});
  const context = canvas.getContext('2d');
  const font = '12px system-ui, sans-serif';
  context.font = font;
  const label = named ? Math.ceil(Math.max(...chosen.map((i) => context.measureText(short(classes[i])).width))) + 10 : 0;
  const cell = named ? Math.max(18, Math.min(60, Math.floor(800 / chosen.length))) : Math.max(1, Math.floor(900 / chosen.length));
  const side = label + cell * chosen.length;
  const density = devicePixelRatio || 1;
  [canvas.width, canvas.height] = [(side + 22) * density, (side + 22) * density];
  canvas.style.width = canvas.style.height = `${side + 22}px`;
  const style = getComputedStyle(document.documentElement);
  const value = (name) => style.getPropertyValue(name).trim();
  const [hit, miss, ink, faint, empty] = ['--hit', '--miss', '--ink', '--faint', '--page'].map(value);
  context.scale(density, density);
  context.font = font;
  context.fillStyle = faint;
  context.textAlign = 'center';
  context.fillText('predicted class', 22 + label + (side - label) / 2, 12);
  context.save();
  context.translate(12, 22 + label + (side - label) / 2);
  context.rotate(-Math.PI / 2);
  context.fillText('true class', 0, 0);
  context.restore();
  context.translate(22, 22);
  const total = (row) => [...rows.get(row).values()].reduce((a, b) => a + b, 0);
  context.fillStyle = empty;
  context.fillRect(label, label, cell * chosen.length, cell * chosen.length);
  chosen.forEach((row, i) => {
    const sum = total(row);
    chosen.forEach((column, j) => {
      const count = rows.get(row).get(column);
      if (!count) return;
      const shade = 0.15 + 0.85 * Math.sqrt(count / sum);
      context.fillStyle = `rgb(${(row === column ? hit : miss)} / ${shade})`;
      const gap = cell > 8 ? 1 : 0;
      context.fillRect(label + j * cell, label + i * cell, cell - gap, cell - gap);
      if (cell >= 26) {
        context.fillStyle = shade > 0.6 ? '#fff' : ink;
        context.textAlign = 'center';
        context.textBaseline = 'middle';
        const text = count < 1000 ? `${count}` : `${Math.round(count / 1000)}k`;
        context.fillText(text, label + (j + 0.5) * cell, label + (i + 0.5) * cell);
      }
    });
    if (named) {
      context.fillStyle = ink;
      context.textBaseline = 'middle';
      context.textAlign = 'right';
      context.fillText(short(classes[row]), label - 6, label + (i + 0.5) * cell);
      context.save();
      context.translate(label + (i + 0.5) * cell, label - 6);
      if (label <= cell) {
        context.textAlign = 'center';
        context.textBaseline = 'bottom';
      } else {
        context.rotate(-Math.PI / 2);
        context.textAlign = 'left';
      }
      context.fillText(short(classes[row]), 0, 0);
      context.restore();
    }
  });
  canvas.addEventListener('pointermove', (event) => {
    const box = canvas.getBoundingClientRect();
    const at = (v) => Math.floor((v - 22 - label) / cell);
    const [j, i] = [at(event.clientX - box.left), at(event.clientY - box.top)];
    if (i < 0 || j < 0 || i >= chosen.length || j >= chosen.length) return hideTip();
    const [row, column] = [chosen[i], chosen[j]];
    const count = rows.get(row).get(column) || 0;
    const sum = total(row);
    showTip(event, [[null, `true ${classes[row]}`], [null, `predicted ${classes[column]}`],
      [null, `${format(count)} of ${format(sum)} images (${format(sum ? 100 * count / sum : 0)}%)`]]);
  });
  canvas.addEventListener('pointerleave', hideTip);
  $('matrix').replaceChildren(canvas);
}

function confusion() {
  if (!run.confusion) { $('confusion').remove(); return; }
  const count = run.confusion.classes.length;
  let all = count <= MOST;
  if (!all) {
    const buttons = [[false, `${MOST} most confused classes`], [true, `all ${format(count)} classes`]].map(([value, text]) => {
      const button = element('button', { type: 'button', 'aria-pressed': value === all }, text);
      button.onclick = () => {
        all = value;
        buttons.forEach((b) => b.setAttribute('aria-pressed', b === button));
        drawMatrix(all);
      };
      return button;
    });
    $('confusion-choice').append(...buttons);
  } else {
    $('confusion-choice').remove();
  }
  $('confusion-note').textContent = `Validation images of each true class (row) by predicted class (column), best epoch ${run.best.epoch}.`;
  drawMatrix(all);
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => drawMatrix(all));
}

/* Images, configuration, environment */

function tile(image, { x, y, width, height, label, note, tone }) {
  const canvas = element('canvas', { width, height, role: 'img', 'aria-label': note ? `${label}, ${note}` : label });
  canvas.getContext('2d').drawImage(image, x, y, width, height, 0, 0, width, height);
  const box = element('div', { class: 'tile', style: `width:${width}px` }, canvas, element('div', {}, label));
  if (note) box.append(element('div', { class: tone }, note));
  return box;
}

// A mosaic's images one by one, with their captions as text: readable on a phone and on a dark page.
function mosaic({ caption, png, tiles }) {
  const list = element('div', { class: 'tiles' });
  const image = new Image();
  image.onload = () => list.append(...tiles.map((t) => tile(image, t)));
  image.src = `data:image/png;base64,${png}`;
  return element('figure', {}, element('figcaption', {}, caption), list);
}

function mosaics() {
  for (const { title, mosaics } of run.mosaics) {
    const list = element('div', { class: 'mosaics' }, ...mosaics.map(mosaic));
    $('mosaics').append(element('section', {}, element('h2', {}, title), list));
  }
}

const ROWS = 100;

// A table whose columns sort by a click; long ones are shown in part first.
function drawTable({ title, note, columns, rows }) {
  const isNumber = columns.map((_, i) => rows.some((row) => typeof row[i] === 'number'));
  const body = element('tbody', {});
  let all = rows.length <= ROWS, sorted = null, descending = false;
  const more = element('button', { type: 'button', class: 'more' }, `all ${format(rows.length)} rows`);
  function fill() {
    const order = [...rows];
    if (sorted !== null) {
      order.sort((a, b) => {
        const [p, q] = [a[sorted], b[sorted]];
        if (p === null || q === null) return (p === null) - (q === null);
        return (descending ? -1 : 1) * (typeof p === 'number' ? p - q : String(p).localeCompare(String(q)));
      });
    }
    body.replaceChildren(...order.slice(0, all ? undefined : ROWS).map((row) => element('tr', {}, ...row.map((cell, i) =>
      element('td', isNumber[i] ? { class: 'number' } : {}, cell === null ? '–' : isNumber[i] ? format(cell) : String(cell))))));
    more.style.display = all ? 'none' : '';
  }
  const head = element('tr', {}, ...columns.map((name, i) => {
    const cell = element('th', isNumber[i] ? { class: 'number' } : {}, name);
    cell.onclick = () => { descending = sorted === i && !descending; sorted = i; fill(); };
    return cell;
  }));
  more.onclick = () => { all = true; fill(); };
  fill();
  const table = element('div', { class: 'scroll' }, element('table', {}, element('thead', {}, head), body));
  const parts = [element('h2', {}, title), ...(note ? [element('p', { class: 'faint' }, note)] : []), table, more];
  if (rows.length) $('tables').append(element('section', {}, ...parts));
}

function environment() {
  for (const [key, value] of Object.entries(run.environment)) {
    const text = Array.isArray(value) ? value.join(' ') : String(value);
    $('env').append(element('tr', {}, element('td', {}, key), element('td', {}, text)));
  }
  if (!Object.keys(run.environment).length) $('environment').remove();
}

function cards() {
  $('title').textContent = run.name;
  $('subtitle').textContent = run.subtitle;
  for (const [name, value] of run.cards) {
    $('cards').append(element('div', { class: 'card' }, element('b', {}, value), element('span', {}, name)));
  }
}

cards();
if (run.charts.length) run.charts.forEach(drawChart); else $('curves').remove();
confusion();
run.tables.forEach(drawTable);
mosaics();
if (run.args) $('args').textContent = run.args; else $('configuration').remove();
environment();

// Runs a network that report/portable.py recorded, on one image or one z at a time. This file is
// the whole of a worker: it is told a program once, and then inputs, and answers with outputs.
"use strict";

function unpack(program) {
  const text = atob(program.weights);
  const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
  const constants = new Map();
  for (const [number, shape, bits, offset] of program.constants) {
    const size = shape.reduce((a, b) => a * b, 1);
    const view = new DataView(bytes.buffer, offset);
    const values = new Float32Array(size);
    if (bits === 32) {
      for (let i = 0; i < size; i++) values[i] = view.getFloat32(4 * i, true);
    } else {
      const rows = shape[0];
      const width = size / rows;
      const whole = 4 * rows; // the scales come first
      for (let i = 0; i < size; i++) {
        values[i] = view.getFloat32(4 * Math.floor(i / width), true) * integer(view, whole, i, bits);
      }
    }
    constants.set(number, { shape, values });
  }
  return constants;
}

function integer(view, start, i, bits) {
  if (bits === 8) return view.getInt8(start + i);
  if (bits === 16) return view.getInt16(start + 2 * i, true);
  const at = start + 3 * (i >> 1); // two of 12 bits in three bytes
  const value = i % 2 ? (view.getUint8(at + 1) >> 4) | (view.getUint8(at + 2) << 4) : view.getUint8(at) | ((view.getUint8(at + 1) & 15) << 8);
  return value > 2047 ? value - 4096 : value;
}

const sizeOf = (shape) => shape.reduce((a, b) => a * b, 1);
const each = (f) => (args, shape) => args[0].values.map(f);

// Two arrays, or an array and a number; an array that is smaller is repeated along its axes.
function pairwise(f) {
  return (args, shape) => {
    const out = new Float32Array(sizeOf(shape));
    const [a, b] = args.map((value) => reader(value, shape));
    for (let i = 0; i < out.length; i++) out[i] = f(a(i), b(i));
    return out;
  };
}

function reader(value, shape) {
  if (typeof value === "number") return () => value;
  if (value.values.length === 1) return () => value.values[0];
  if (value.values.length === sizeOf(shape)) return (i) => value.values[i];
  const own = [...Array(shape.length - value.shape.length).fill(1), ...value.shape];
  const strides = own.map((side, d) => (side === 1 ? 0 : sizeOf(own.slice(d + 1))));
  return (i) => {
    let at = 0;
    for (let d = shape.length - 1; d >= 0; d--) {
      at += strides[d] * (i % shape[d]);
      i = Math.floor(i / shape[d]);
    }
    return value.values[at];
  };
}

function linear([x, weight, bias], shape) {
  const [outputs, inputs] = weight.shape;
  const out = new Float32Array(sizeOf(shape));
  const w = weight.values;
  const v = x.values;
  for (let o = 0; o < outputs; o++) {
    const row = o * inputs;
    let a = bias ? bias.values[o] : 0;
    let b = 0;
    let c = 0;
    let d = 0;
    let i = 0;
    for (; i + 3 < inputs; i += 4) {
      a += w[row + i] * v[i];
      b += w[row + i + 1] * v[i + 1];
      c += w[row + i + 2] * v[i + 2];
      d += w[row + i + 3] * v[i + 3];
    }
    for (; i < inputs; i++) a += w[row + i] * v[i];
    out[o] = a + b + c + d;
  }
  return out;
}

function convolution([x, weight, bias], shape) {
  const [, outputs, height, width] = shape;
  const inputs = x.shape[1];
  const area = height * width;
  const out = new Float32Array(outputs * area);
  const side = weight.shape[3];
  const source = side === 3 ? bordered(x) : x.values;
  const wide = width + side - 1;
  const w = weight.values;
  for (let o = 0; o < outputs; o++) {
    const to = out.subarray(o * area, (o + 1) * area);
    if (bias) to.fill(bias.values[o]);
    for (let c = 0; c < inputs; c++) {
      const k = (o * inputs + c) * side * side;
      if (side === 1) {
        const factor = w[k];
        for (let i = 0; i < area; i++) to[i] += factor * source[c * area + i];
        continue;
      }
      const [w0, w1, w2, w3, w4, w5, w6, w7, w8] = w.subarray(k, k + 9);
      const plane = c * (height + 2) * wide;
      for (let y = 0; y < height; y++) {
        const a = plane + y * wide;
        const b = a + wide;
        const d = b + wide;
        for (let i = 0, t = y * width; i < width; i++, t++) {
          to[t] +=
            w0 * source[a + i] + w1 * source[a + i + 1] + w2 * source[a + i + 2] +
            w3 * source[b + i] + w4 * source[b + i + 1] + w5 * source[b + i + 2] +
            w6 * source[d + i] + w7 * source[d + i + 1] + w8 * source[d + i + 2];
        }
      }
    }
  }
  return out;
}

// With a border of zeros
function bordered(x) {
  const [, channels, height, width] = x.shape;
  const wide = width + 2;
  const out = new Float32Array(channels * (height + 2) * wide);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < height; y++) {
      const from = (c * height + y) * width;
      out.set(x.values.subarray(from, from + width), (c * (height + 2) + y + 1) * wide + 1);
    }
  }
  return out;
}

// Every place of an output image, and the place of the input that it shows
function moved(shape, from, size) {
  const [, channels, height, width] = shape;
  const out = new Float32Array(size);
  let i = 0;
  for (let c = 0; c < channels; c++) for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) out[i++] = from(c, y, x);
  return out;
}

function pixelShuffle([x], shape) {
  const [, , h, w] = x.shape;
  const r = shape[2] / h;
  return moved(shape, (c, i, j) => x.values[((c * r * r + (i % r) * r + (j % r)) * h + Math.floor(i / r)) * w + Math.floor(j / r)], x.values.length);
}

function pixelUnshuffle([x], shape) {
  const [, , h, w] = x.shape;
  const r = h / shape[2];
  return moved(shape, (k, i, j) => x.values[(Math.floor(k / (r * r)) * h + i * r + Math.floor((k % (r * r)) / r)) * w + j * r + (k % r)], x.values.length);
}

function pad([x], shape, { left, top }) {
  const [, , h, w] = x.shape;
  const within = (i, n) => Math.min(n - 1, Math.max(0, i));
  return moved(shape, (c, i, j) => x.values[(c * h + within(i - top, h)) * w + within(j - left, w)], sizeOf(shape));
}

function slice([x], shape, { starts }) {
  const out = new Float32Array(sizeOf(shape));
  const strides = x.shape.map((_, d) => sizeOf(x.shape.slice(d + 1)));
  for (let i = 0; i < out.length; i++) {
    let rest = i;
    let at = 0;
    for (let d = shape.length - 1; d >= 0; d--) {
      at += strides[d] * (starts[d] + (rest % shape[d]));
      rest = Math.floor(rest / shape[d]);
    }
    out[i] = x.values[at];
  }
  return out;
}

function concatenate(args, shape) {
  const out = new Float32Array(sizeOf(shape));
  let at = 0;
  for (const { values } of args) {
    out.set(values, at);
    at += values.length;
  }
  return out;
}

const operations = {
  linear, convolution, concatenate, slice, pad,
  pixel_shuffle: pixelShuffle,
  pixel_unshuffle: pixelUnshuffle,
  view: (args, shape) => (args[0].values.length === sizeOf(shape) ? args[0].values : pairwise((a) => a)([args[0], 0], shape)),
  rows: ([table, row], shape) => table.values.slice(row.values[0] * sizeOf(shape), (row.values[0] + 1) * sizeOf(shape)),
  clamp: (args, shape, { low, high }) => args[0].values.map((v) => Math.min(high ?? Infinity, Math.max(low ?? -Infinity, v))),
  relu: each((v) => (v > 0 ? v : 0)),
  sigmoid: each((v) => 1 / (1 + Math.exp(-v))),
  sin: each(Math.sin), cos: each(Math.cos), tanh: each(Math.tanh), exp: each(Math.exp),
  log: each(Math.log), sqrt: each(Math.sqrt), neg: each((v) => -v),
  add: pairwise((a, b) => a + b), sub: pairwise((a, b) => a - b),
  mul: pairwise((a, b) => a * b), div: pairwise((a, b) => a / b),
  ge: pairwise((a, b) => (a >= b ? 1 : 0)),
};

// A function from inputs, arrays of numbers with the shapes given, to an array.
function network(program) {
  const constants = unpack(program);
  return (inputs, shapes) => {
    const values = new Map(constants);
    program.inputs.forEach((number, i) => values.set(number, { shape: shapes[i], values: Float32Array.from(inputs[i]) }));
    for (const [name, args, options, output, shape] of program.steps) {
      const given = args.map((arg) => (Array.isArray(arg) ? values.get(arg[0]) : arg));
      values.set(output, { shape, values: operations[name](given, shape, options) });
    }
    return values.get(program.output).values;
  };
}

const networks = {};
onmessage = ({ data }) => {
  if (data.program) networks[data.name] = network(data.program);
  else postMessage({ id: data.id, output: networks[data.name](data.inputs, data.shapes) });
};

// What the functions of a step call. Addresses are indices of the arrays F (float32), D (float64 and integers) and
// B (truth values), which view one memory. `kernels` are the products in WebAssembly, or null.

// An integer that a float64 has exactly.
function whole(x) {
  if (!Number.isSafeInteger(x)) throw new RangeError(`the integer ${x} has more than 53 bits`);
  return x;
}

function gather(Y, X, rows, columns, y0, yi, yj, a0, ai, aj, b0, bi, bj) {
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++)
      Y[y0 + i * yi + j * yj] = X[a0 + i * ai + j * aj + D[b0 + i * bi + j * bj]];
}

// A reduction of `width` elements for each of rows x columns results. `result` gets the sum and the width.
const reduction = (combine, result, start = 0) =>
  function (Y, X, rows, columns, width, y0, yi, yj, x0, xi, xj, step) {
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) {
        let total = start;
        for (let k = 0, x = x0 + i * xi + j * xj; k < width; k++, x += step) total = combine(total, X[x]);
        Y[y0 + i * yi + j * yj] = result(total, width);
      }
  };
const sum = reduction((total, x) => total + x, (total) => total);
const mean = reduction((total, x) => total + x, (total, width) => total / width);
const norm = reduction((total, x) => total + x * x, (total) => Math.sqrt(total));
const largest = reduction((total, x) => Math.max(total, x), (total) => total, -Infinity);

function cumulativeSum(Y, X, count, y, yi, x, xi) {
  for (let i = 0, total = 0; i < count; i++) Y[y + i * yi] = total += X[x + i * xi];
}

function cumulativeMax(Y, X, count, y, yi, x, xi) {
  for (let i = 0, top = -Infinity; i < count; i++) Y[y + i * yi] = top = Math.max(top, X[x + i * xi]);
}

function lowerBound(y, x, count, value) {
  let found = 0;
  while (found < count && D[x + found] < D[value]) found++;
  D[y] = found;
}

function rmsNorm(width, x, y, eps) {
  let squares = 0;
  for (let i = 0; i < width; i++) squares += F[x + i] * F[x + i];
  const factor = Math.fround(1 / Math.sqrt(squares / width + eps));
  for (let i = 0; i < width; i++) F[y + i] = F[x + i] * factor;
}

function batchedProduct(batches, rows, columns, inner, y, yb, yi, yj, a, ab, ai, ak, b, bb, bk, bj) {
  for (let n = 0; n < batches; n++)
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < columns; j++) {
        let total = 0;
        for (let k = 0; k < inner; k++) total += F[a + n * ab + i * ai + k * ak] * F[b + n * bb + k * bk + j * bj];
        F[y + n * yb + i * yi + j * yj] = total;
      }
}

// ---- matrices: number * step of the row * step of the column + left * right, the last of a low rank ------------------

const ELEMENTS = { i8: [Int8Array, 1], i16: [Int16Array, 2], f32: [Float32Array, 4] };

// The rows of a matrix at a byte address times a vector at address x.
function dotRows(type, bytes, x, y, rows, columns, stride) {
  if (kernels) return kernels["dot_" + type](bytes, x * 4, y * 4, rows, columns, stride);
  const W = new ELEMENTS[type][0](memory.buffer, bytes);
  for (let r = 0; r < rows; r++) {
    let total = 0;
    for (let c = 0, w = r * stride; c < columns; c++) total += W[w + c] * F[x + c];
    F[y + r] = total;
  }
}

function product(number, x, y) {
  const m = matrices[number];
  let factors = x;
  if (m.columnSteps !== null) {
    for (let c = 0; c < m.columns; c++) F[spare + c] = F[x + c] * F[m.columnSteps + c];
    factors = spare;
  }
  dotRows(m.type, m.at, factors, y, m.rows, m.columns, m.columns);
  if (m.rowSteps !== null) for (let r = 0; r < m.rows; r++) F[y + r] *= F[m.rowSteps + r];
  if (m.rank) {
    dotRows("f32", 4 * m.right, x, spare, m.rank, m.columns, m.columns);
    for (let r = 0, i = m.left; r < m.rows; r++)
      for (let k = 0; k < m.rank; k++, i++) F[y + r] += F[i] * F[spare + k];
  }
}

function lookup(number, row, y) {
  const m = matrices[number], [Type, size] = ELEMENTS[m.type];
  const W = new Type(memory.buffer, m.at + row * m.columns * size, m.columns);
  const step = m.rowSteps === null ? 1 : F[m.rowSteps + row];
  for (let c = 0; c < m.columns; c++) {
    F[y + c] = W[c] * (m.columnSteps === null ? step : Math.fround(step * F[m.columnSteps + c]));
    for (let k = 0; k < m.rank; k++)
      F[y + c] += Math.fround(F[m.left + row * m.rank + k] * F[m.right + k * m.columns + c]);
  }
}

// ---- attention: the keys that the mask allows are consecutive --------------------------------------------------------

function attend(scale, q, mask, count, width, k, keyStride, valueWidth, v, valueStride, y) {
  let first = 0, end = count;
  while (first < end && !B[mask + first]) first++;
  while (end > first && !B[mask + end - 1]) end--;
  const n = end - first;
  dotRows("f32", 4 * (k + first * keyStride), q, spare, n, width, keyStride);
  let top = -Infinity, total = 0;
  for (let i = 0; i < n; i++) {
    F[spare + i] = B[mask + first + i] ? F[spare + i] * scale : -Infinity;
    top = Math.max(top, F[spare + i]);
  }
  for (let i = 0; i < n; i++) total += F[spare + i] = Math.exp(F[spare + i] - top);
  for (let i = 0; i < n; i++) F[spare + i] /= total;
  weightRows(v + first * valueStride, spare, y, n, valueWidth, valueStride);
}

// The sum of rows of floats, each times a weight.
function weightRows(v, weights, y, rows, columns, stride) {
  if (kernels) return kernels.weight_rows(4 * v, 4 * weights, 4 * y, rows, columns, stride);
  for (let c = 0; c < columns; c++) {
    let total = 0;
    for (let r = 0; r < rows; r++) total += F[weights + r] * F[v + r * stride + c];
    F[y + c] = total;
  }
}

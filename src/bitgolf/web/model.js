// The model: its memory, one step for each token, and sampling as `bitgolf.model.decoding.generate` does it.

const ELEMENT_TYPES = { i8: Int8Array, i16: Int16Array, f32: Float32Array, f64: Float64Array, u8: Uint8Array };
const hasWebAssembly = typeof WebAssembly === "object";
const memory = hasWebAssembly
  ? new WebAssembly.Memory({ initial: model.memoryPages })
  : { buffer: new ArrayBuffer(model.memoryPages * 65536) };
const F = new Float32Array(memory.buffer), D = new Float64Array(memory.buffer), B = new Uint8Array(memory.buffer);
const { matrices, places } = model, spare = places.spare;
const kernels = loadKernels();

function fromBase64(text) {
  const binary = atob(text), bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// The products in WebAssembly; null where the browser, or the machine that wrote the page, does not have it.
function loadKernels() {
  if (!model.kernels || !hasWebAssembly) return null;
  try {
    const module = new WebAssembly.Module(fromBase64(model.kernels));
    return new WebAssembly.Instance(module, { env: { __linear_memory: memory } }).exports;
  } catch {
    return null;
  }
}

// Fill the memory with the constants, which the page has as base64 of a zlib stream; see `packed_arrays`.
async function loadConstants(text) {
  const inflated = new Blob([fromBase64(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(inflated).arrayBuffer());
  let start = 0;
  const read = (Type, count) => {
    const width = Type.BYTES_PER_ELEMENT, planes = bytes.subarray(start, (start += count * width));
    return new Type(joinPlanes(planes, count, width).buffer);
  };
  for (const [at, type, count, stored, columns, h0, h1] of model.arrays) {
    const target = new ELEMENT_TYPES[type](memory.buffer, at, count);
    if (stored === "trellis") {
      const order = read(Uint16Array, count / columns);
      followTrellis(target, order, read(Int8Array, count), columns, h0, h1);
    } else if (stored === "f16") read(Uint16Array, count).forEach((bits, i) => (target[i] = fromHalf(bits)));
    else target.set(read(ELEMENT_TYPES[stored], count));
  }
}

// Numbers of several bytes are stored as all first bytes, then all second ones.
function joinPlanes(planes, count, width) {
  const joined = new Uint8Array(count * width);
  for (let k = 0; k < width; k++) for (let i = 0; i < count; i++) joined[i * width + k] = planes[k * count + i];
  return joined;
}

// The points of a trellis, in half steps: each column is a sequence of states, over the rows in the order of their steps.
function followTrellis(points, order, indices, columns, h0, h1) {
  const states = new Uint8Array(columns);
  order.forEach((row, r) => {
    for (let c = 0, i = r * columns, p = row * columns; c < columns; c++, i++, p++) {
      const half = states[c] & 1;
      points[p] = 2 * indices[i] + half;
      states[c] = (states[c] >> 1) ^ (half * h0) ^ ((indices[i] & 1) * h1);
    }
  });
}

function fromHalf(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : (fraction / 1024) * 2 ** -14;
  return bits & 0x8000 ? -size : size;
}

// ---- one text --------------------------------------------------------------------------------------------------------

let context = [];

function reset() {
  context = [];
  for (const [array, at, count] of model.resets) ({ F, D, B })[array].fill(0, at, at + count);
}

// Append a token to the text. If the window is full, the later half of it is read again as a new text: `pause` is
// awaited between its tokens.
async function append(token, pause) {
  if (context.length === places.window) {
    const kept = context.slice(Math.max(1, places.window >> 1));
    reset();
    for (const earlier of kept) step(earlier), await pause();
  }
  step(token);
}

function step(token) {
  D[places.token] = token;
  D[places.position] = context.length;
  context.push(token);
  hidden();
}

// The tokens of a prompt, and up to `tokens` sampled ones; ends before a token that starts a document.
async function* generate(prompt, { tokens, temperature, top, pause = async () => {}, random = Math.random }) {
  reset();
  step(tokenizer.bos);
  for (const token of encode(prompt)) {
    await append(token, pause);
    yield token;
  }
  for (let i = 0; i < tokens; i++) {
    logits();
    const token = sampled(F.subarray(places.logits, places.logits + places.vocab), temperature, top, random);
    if (token === tokenizer.bos) return;
    yield token;
    if (i + 1 < tokens) await append(token, pause);
  }
}

function sampled(scores, temperature, top, random) {
  const likeliest = scores.reduce((best, score, token) => (score > scores[best] ? token : best), 0);
  if (temperature <= 0) return likeliest;
  const least = top > 0 && top < scores.length ? scores.slice().sort()[scores.length - top] : -Infinity;
  const weights = scores.map((score) => (score < least ? 0 : Math.exp((score - scores[likeliest]) / temperature)));
  let left = random() * weights.reduce((sum, weight) => sum + weight, 0);
  const found = weights.findIndex((weight) => weight > 0 && (left -= weight) <= 0);
  return found < 0 ? likeliest : found;
}

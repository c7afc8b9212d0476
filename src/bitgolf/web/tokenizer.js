// Text to tokens and back, as `bitgolf.tokens` does it. `tokenizer` has: kind ("bytes", "sentencepiece" or "caseops"),
// pieces (the bytes of each token, as a string of characters U+0000 to U+00FF), byteTokens (of the bytes 0 to 255), and
// for SentencePiece scores (null for tokens that no text becomes) and symbols (pieces that are never merged).

const utf8 = new TextEncoder();
const pieceBytes = tokenizer.pieces.map((piece) => Uint8Array.from(piece, (c) => c.charCodeAt(0)));
const pieceTokens = new Map();
if (tokenizer.scores)
  pieceBytes.forEach((bytes, token) => {
    if (tokenizer.scores[token] !== null) pieceTokens.set(new TextDecoder().decode(bytes), token);
  });
const symbols = new Set(tokenizer.symbols);
const longestSymbol = Math.max(0, ...tokenizer.symbols.map((symbol) => symbol.length));

function encode(text) {
  text = text.toWellFormed ? text.toWellFormed() : text;
  if (tokenizer.kind === "bytes") return byteTokens(text);
  if (tokenizer.kind === "caseops") text = encodeCase(text);
  const unencodable = pieceTokens.has(" ") ? /(\u2581+)/ : /([\u2581 ]+)/;
  return text.split(unencodable).flatMap((part, i) => (i % 2 ? byteTokens(part) : encodePart(part)));
}

const byteTokens = (text) => Array.from(utf8.encode(text), (byte) => tokenizer.byteTokens[byte]);

// Byte-pair encoding: the pair of neighbours whose piece has the highest score is merged, the first of equal ones.
function encodePart(text) {
  const parts = splitSymbols(text);
  const score = (i) => {
    if (i + 1 >= parts.length || symbols.has(parts[i]) || symbols.has(parts[i + 1])) return -Infinity;
    const token = pieceTokens.get(parts[i] + parts[i + 1]);
    return token === undefined ? -Infinity : tokenizer.scores[token];
  };
  const scores = parts.map((_, i) => score(i));
  for (;;) {
    let best = 0;
    for (let i = 1; i < scores.length; i++) if (scores[i] > scores[best]) best = i;
    if (!scores.length || scores[best] === -Infinity) break;
    parts.splice(best, 2, parts[best] + parts[best + 1]);
    scores.splice(best + 1, 1);
    scores[best] = score(best);
    if (best) scores[best - 1] = score(best - 1);
  }
  return parts.flatMap((part) => pieceTokens.get(part) ?? byteTokens(part));
}

// Characters, and at each place the longest symbol that begins there.
function splitSymbols(text) {
  const parts = [];
  for (let at = 0; at < text.length; ) {
    let size = Math.min(longestSymbol, text.length - at);
    while (size > 0 && !symbols.has(text.slice(at, at + size))) size--;
    size = size || String.fromCodePoint(text.codePointAt(at)).length;
    parts.push(text.slice(at, (at += size)));
  }
  return parts;
}

function decode(tokens) {
  const bytes = new Uint8Array(tokens.reduce((size, token) => size + pieceBytes[token].length, 0));
  let at = 0;
  for (const token of tokens) bytes.set(pieceBytes[token], at), (at += pieceBytes[token].length);
  const text = new TextDecoder().decode(bytes);
  return tokenizer.kind === "caseops" ? decodeCase(text) : text;
}

// ---- case operators: see `bitgolf.text.caseops` ----------------------------------------------------------------------

const [TITLE, ALLCAPS, CAPNEXT, ESC] = "\uE001\uE002\uE003\uE004";
const afterCapnext = (text) => text.replace(/[A-Z]/g, (c) => CAPNEXT + c.toLowerCase());

function encodeCase(text) {
  return text.replace(/[\uE001-\uE004]|[A-Z][A-Za-z]*/g, (word, at) => {
    if (word >= TITLE) return ESC + word;
    if (at && /[a-z]/.test(text[at - 1])) return afterCapnext(word);
    if (word.length > 1 && word === word.toUpperCase()) return ALLCAPS + word.toLowerCase();
    return TITLE + word[0].toLowerCase() + afterCapnext(word.slice(1));
  });
}

const ENCODED_WORD = new RegExp(
  [
    `(?<![A-Za-z])${TITLE}(?![a-z](?:${CAPNEXT}[a-z])+(?![a-z]|${CAPNEXT}[a-z]))([a-z]+(?:${CAPNEXT}[a-z]+)*)`,
    `(?<![A-Za-z])${ALLCAPS}([a-z]{2,})(?![a-z]|${CAPNEXT})`,
    `(?<=[a-z])${CAPNEXT}([a-z]+(?:${CAPNEXT}[a-z]+)*)`,
    `${ESC}([${TITLE}-${ESC}])`,
    `[${TITLE}-${ESC}]`,
  ].join("|"),
  "g",
);

// Misplaced operators, which a model may generate, are left out.
function decodeCase(text) {
  const first = (word) => word[0].toUpperCase() + word.slice(1).replaceAll(/\uE003([a-z])/g, (_, c) => c.toUpperCase());
  return text.replace(ENCODED_WORD, (_, title, capitals, next, literal) => {
    if (capitals) return capitals.toUpperCase();
    return literal ?? (title || next ? first(title || next) : "");
  });
}

// The form: reads a prompt, shows the text while it is generated, and can be stopped.

const element = (id) => document.getElementById(id);
const form = element("form"), stop = element("stop"), start = element("start"), shown = element("text");
let running = false, stopped = false;

// Give the browser time to paint and to react, at most every 16 ms. A message, since timers wait for 4 ms or longer.
let painted = 0;
const channel = new MessageChannel();
async function pause() {
  if (performance.now() - painted < 16) return;
  const arrived = new Promise((resolve) => (channel.port1.onmessage = resolve));
  channel.port2.postMessage(0);
  await arrived;
  painted = performance.now();
}

const report = (text) => (element("status").textContent = text);
const setting = (id) => element(id).valueAsNumber;

async function run() {
  const prompt = element("prompt").value, read = encode(prompt).length, tokens = [];
  const settings = { tokens: setting("length"), temperature: setting("temperature"), top: setting("top"), pause };
  let began = performance.now();
  report(`Reading the prompt: ${read} tokens.`);
  stopped = false;
  setRunning(true);
  try {
    for await (const token of generate(prompt, settings)) {
      tokens.push(token);
      if (tokens.length <= read) began = performance.now();
      else showText(tokens, read, began);
      if (tokens.length === read + 1) report("Generating.");
      await pause();
      if (stopped) break;
    }
    const made = Math.max(tokens.length - read, 0);
    const end = stopped ? "stopped" : made < settings.tokens ? "the model ended the document" : "done";
    report(`${made} tokens, ${end}. ${speed(made, began)}`);
  } catch (error) {
    report(`The model cannot go on: ${error.message}`);
  }
  setRunning(false);
}

// One of the two buttons can be used. The focus moves from the other one to it, before that one is disabled.
function setRunning(value) {
  running = value;
  const [usable, other] = value ? [stop, start] : [start, stop];
  usable.disabled = false;
  if ([other, document.body].includes(document.activeElement)) usable.focus();
  other.disabled = true;
}

function showText(tokens, read, began) {
  shown.textContent = decode(tokens);
  const made = tokens.length - read;
  if (made > 1) element("speed").textContent = perSecond(made, began);
}

// The first token comes with the end of the prompt, so it is not counted.
const perSecond = (made, began) => ((1000 * (made - 1)) / (performance.now() - began)).toFixed(1);
const speed = (made, began) => (made > 1 ? `${perSecond(made, began)} tokens per second.` : "");

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running && !start.disabled) run();
});
stop.addEventListener("click", () => (stopped = true));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stopped = true;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

const ready = loadConstants(element("constants").textContent).then(
  () => {
    element("constants").remove();
    start.disabled = false;
    const slow = kernels ? "" : " Products are computed in JavaScript, several times slower than in WebAssembly.";
    report(`Ready.${slow}`);
  },
  (error) => report(`The model cannot be loaded: ${error.message}`),
);

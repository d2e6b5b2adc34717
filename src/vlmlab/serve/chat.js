// A client of /v1/chat/completions: everything it does, any other client can do.
"use strict";

const at = (id) => document.getElementById(id);
let messages = [], pictures = [], asking = null, model = "";

const headers = () => ({
  "Content-Type": "application/json",
  ...(at("key").value ? { Authorization: `Bearer ${at("key").value}` } : {}),
});

async function begin() {
  const answer = await fetch("/v1/models", { headers: headers() });
  at("keyed").hidden = answer.status !== 401 && !at("key").value;
  if (!answer.ok) return;
  model = (await answer.json()).data[0].id;
  at("model").textContent = model;
}

function shown() {
  at("pictures").replaceChildren(...pictures.map((url, number) => {
    const image = new Image();
    image.src = url;
    image.alt = `picture ${number + 1}`;
    image.onclick = () => { pictures.splice(number, 1); shown(); };
    return image;
  }));
}

async function take(files) {
  for (const file of files) {
    if (!file.type.startsWith("image/")) continue;
    pictures.push(await new Promise((done, failed) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result);
      reader.onerror = () => failed(reader.error);
      reader.readAsDataURL(file);
    }));
  }
  shown();
}

function turn(role, text, urls = []) {
  const article = document.createElement("article");
  article.className = role;
  for (const url of urls) {
    const image = new Image();
    image.src = url;
    image.alt = "a picture";
    article.append(image);
  }
  const words = document.createElement("span");
  words.textContent = text;
  article.append(words);
  at("turns").append(article);
  at("turns").scrollTop = at("turns").scrollHeight;
  return { article, words };
}

function note(article, text) {
  const small = document.createElement("small");
  small.textContent = text;
  article.append(small);
}

function told(cost) {
  const first = cost.pictures_seconds + cost.prepare_seconds + cost.queue_seconds + cost.prefill_seconds;
  const pace = cost.decode_seconds > 0 ? (cost.written_tokens - 1) / cost.decode_seconds : 0;
  return `${cost.visual_tokens} visual of ${cost.prompt_tokens} tokens` +
    (cost.image_hits ? `, ${cost.image_hits} of ${cost.images} images seen before` : "") +
    `; first token after ${first.toFixed(2)} s, then ${pace.toFixed(1)} a second`;
}

// The events of a stream, one JSON after the other.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let held = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (held + value).split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    }
  }
}

// Where an answer looked: each crop under a map, of the whole answer, or of the word that is pointed at or held.
async function look(article, words, told, reading, signal) {
  const answer = await fetch("/v1/vlmlab/attention", {
    method: "POST", headers: headers(), signal, body: JSON.stringify({ model, messages: told, each: true, ...reading }),
  });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  const { tokens, images, cost } = await answer.json();
  const parts = told.flatMap(({ content }) => (Array.isArray(content) ? content : []));
  const sources = await Promise.all(parts.filter((part) => part.image_url).map(async (part) => {
    const image = new Image();
    image.src = part.image_url.url;
    await image.decode();
    return image;
  }));
  const crops = images.map((image) => crop(image, sources[image.picture]));
  let held = -1;
  const show = (token) => crops.forEach((one) => one.show(token));
  const spans = tokens.map(({ text, share }, number) => {
    const span = document.createElement("span");
    span.textContent = number ? text : text.trimStart();
    span.tabIndex = 0;
    span.title = `${(100 * share).toFixed(0)} % of its attention on pictures`;
    span.onpointerenter = span.onfocus = () => show(number);
    span.onpointerleave = span.onblur = () => show(held);
    span.onclick = () => {
      held = held === number ? -1 : number;
      spans.forEach((one, at) => one.classList.toggle("held", at === held));
      show(held);
    };
    return span;
  });
  words.replaceChildren(...spans);
  const box = document.createElement("div");
  box.className = "looked";
  box.append(...crops.map((one) => one.canvas));
  article.append(box);
  show(held);
  note(article, `looked again in ${cost.look_seconds.toFixed(2)} s: where attention fell, which is not why; point at a word`);
}

// A part of a picture and the maps over it; `show` draws that of a token, or of the answer for -1.
function crop({ box: [left, top, right, bottom], rows, columns, answer, tokens }, source) {
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const [whole, each, size] = [bytes(answer), bytes(tokens), rows * columns];
  const [width, height] = [(right - left) * source.naturalWidth, (bottom - top) * source.naturalHeight];
  const canvas = document.createElement("canvas"), small = new OffscreenCanvas(columns, rows);
  canvas.height = 352;
  canvas.width = Math.max(1, Math.round((canvas.height * width) / height));
  const pen = canvas.getContext("2d"), fine = small.getContext("2d");
  const show = (token) => {
    const map = token < 0 ? whole : each.subarray(token * size, (token + 1) * size);
    const pixels = fine.createImageData(columns, rows);
    map.forEach((bright, at) => pixels.data.set([255, 70, 0, 0.8 * bright], 4 * at));
    fine.putImageData(pixels, 0, 0);
    pen.clearRect(0, 0, canvas.width, canvas.height);
    pen.filter = "grayscale(1)";  // so that the map's colour is the only one
    pen.drawImage(
      source, left * source.naturalWidth, top * source.naturalHeight, width, height, 0, 0, canvas.width, canvas.height,
    );
    pen.filter = "none";
    pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  };
  return { canvas, show };
}

async function ask(text) {
  const content = [...pictures.map((url) => ({ type: "image_url", image_url: { url } })), { type: "text", text }];
  turn("user", text, pictures);
  const asked = [...messages, { role: "user", content }];
  pictures = [];
  shown();
  const { article, words } = turn("assistant", "");
  asking = new AbortController();
  at("send").hidden = true;
  at("stop").hidden = false;
  try {
    const reading = {};
    if (at("splitting").checked) reading.splitting = true;
    if (at("longest").value) reading.longest_edge = Number(at("longest").value);
    const temperature = Number(at("temperature").value);
    const body = { model, messages: asked, stream: true, report_cost: true, temperature, ...reading };
    const answer = await fetch("/v1/chat/completions", {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: asking.signal,
    });
    if (!answer.ok) {
      if (answer.status === 401) at("keyed").hidden = false;
      throw new Error((await answer.json()).error.message);
    }
    for await (const event of events(answer.body)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      words.textContent += choice?.delta?.content ?? "";
      if (choice?.cost) note(article, told(choice.cost));
      at("turns").scrollTop = at("turns").scrollHeight;
    }
    const seen = asked.some((message) => Array.isArray(message.content) && message.content.some((part) => part.image_url));
    if (at("looking").checked && seen && words.textContent) {
      const told = [...asked, { role: "assistant", content: words.textContent }];
      await look(article, words, told, reading, asking.signal).catch((error) => {
        note(article, error.name === "AbortError" ? "stopped" : error.message);
      });
      at("turns").scrollTop = at("turns").scrollHeight;
    }
  } catch (error) {
    if (error.name === "AbortError") {
      note(article, "stopped");
    } else {
      article.classList.add("failed");
      note(article, error.message);
    }
  } finally {
    asking = null;
    at("send").hidden = false;
    at("stop").hidden = true;
  }
  if (words.textContent) messages = [...asked, { role: "assistant", content: words.textContent }];
}

at("ask").onsubmit = (event) => {
  event.preventDefault();
  const text = at("text").value.trim();
  if (asking || !(text || pictures.length)) return;
  at("text").value = "";
  ask(text);
};
at("text").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
};
at("stop").onclick = () => asking?.abort();
at("add").onclick = () => at("files").click();
at("files").onchange = () => { take([...at("files").files]); at("files").value = ""; };
at("key").onchange = begin;
at("new").onclick = () => { asking?.abort(); messages = []; pictures = []; shown(); at("turns").replaceChildren(); };
document.onpaste = (event) => take([...event.clipboardData.files]);
document.ondragover = (event) => { event.preventDefault(); document.body.classList.add("over"); };
document.ondragleave = () => document.body.classList.remove("over");
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  take([...event.dataTransfer.files]);
};
begin();

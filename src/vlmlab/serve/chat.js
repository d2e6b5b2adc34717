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
    const body = { model, messages: asked, stream: true, report_cost: true, temperature: Number(at("temperature").value) };
    if (at("splitting").checked) body.splitting = true;
    if (at("longest").value) body.longest_edge = Number(at("longest").value);
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

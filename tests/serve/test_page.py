"""The page, in a real browser: pictures dropped and pasted, an answer as it comes, the stop button, what it cost."""

import asyncio
import urllib.error
import urllib.request

import pytest

from serve import browser, server
from serve.test_guard import until
from vlmlab.batch import Sample
from vlmlab.processor.processor import Options
from vlmlab.serve.media import Pictures, Policy
from vlmlab.serve.service import Limits

GIVE = """
(async () => {
  const canvas = new OffscreenCanvas(WIDTH, 30);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "rgb(200, 40, 40)";
  pen.fillRect(0, 0, WIDTH, 30);
  const file = new File([await canvas.convertToBlob({type: "image/png"})], "a.png", {type: "image/png"});
  const data = new DataTransfer();
  data.items.add(file);
  EVENT
})()
"""
DROP = 'document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}))'
PASTE = 'document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}))'
ASK = 'document.getElementById("text").value = TEXT; document.getElementById("send").click()'
SAID = '[...document.querySelectorAll("article.assistant")].at(-1)?.querySelector("span").textContent'
NOTED = '[...document.querySelectorAll("article.assistant")].at(-1)?.querySelector("small")?.textContent ?? ""'


@pytest.fixture(scope="module")
def talking(decoders):
    limits = Limits(chat=True, new_tokens=24, drain_seconds=2.0)
    with server.serving(Pictures(Policy(), decoders), limits, window=None) as one:
        yield one


def red(width):
    import PIL.Image

    return PIL.Image.new("RGB", (width, 30), (200, 40, 40))


@pytest.mark.skipif(not browser.CHROMIUM, reason="no chromium here: apt install chromium")
def test_a_conversation_in_a_browser(talking, tmp_path):
    async def talk():
        async with browser.opened(tmp_path / "profile") as page:
            await page.go(talking.url + "/chat")
            await page.until('document.getElementById("model").textContent == "tiny"')
            await page.run('document.getElementById("splitting").checked = true')
            for width, event in ((20, DROP), (34, PASTE)):
                await page.run(GIVE.replace("WIDTH", str(width)).replace("EVENT", event))
            await page.until('document.querySelectorAll("#pictures img").length == 2')
            await page.run(ASK.replace("TEXT", '"What is it?"'))
            await page.until(f'({NOTED}).includes("visual")')
            first = await page.run(SAID)
            noted = await page.run(NOTED)
            await page.picture(tmp_path / "page.png")

            talking.service.limits = Limits(chat=True, new_tokens=450, drain_seconds=2.0)
            await page.run(ASK.replace("TEXT", '"More."'))
            await page.until(f"({SAID}).length > 5")
            await page.run('document.getElementById("stop").click()')
            await page.until(f'({NOTED}) == "stopped"')
            assert not page.wrong
            return first, noted

    first, noted = asyncio.run(talk())
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What is it?"}]
    sample = Sample.from_messages([{"role": "user", "content": parts}], images=[red(20), red(34)])
    [expected] = server.engine(window=None).answers([sample], 24, options=Options(split=True))
    assert first == expected.text.lstrip()
    assert noted.startswith(f"{expected.cost.visual_tokens} visual of {expected.cost.prompt_tokens} tokens")
    until(lambda: talking.service.engine.gauges().cancelled == 1)
    assert (tmp_path / "page.png").stat().st_size > 5000


LOOKED = 'document.querySelectorAll("article.assistant .looked canvas")'
WORDS = 'document.querySelectorAll("article.assistant span > span")'
SUM = """
[...document.querySelectorAll(".looked canvas")].map((canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.reduce((sum, one, at) => sum + one * (at % 7), 0);
}).join()
"""


@pytest.mark.skipif(not browser.CHROMIUM, reason="no chromium here: apt install chromium")
def test_where_an_answer_looked_in_a_browser(talking, tmp_path):
    talking.service.limits = Limits(chat=True, new_tokens=24, drain_seconds=2.0)

    async def talk():
        async with browser.opened(tmp_path / "profile") as page:
            await page.go(talking.url + "/chat")
            await page.until('document.getElementById("model").textContent == "tiny"')
            for switch in ("splitting", "looking"):
                await page.run(f'document.getElementById("{switch}").checked = true')
            for width in (40, 20):
                await page.run(GIVE.replace("WIDTH", str(width)).replace("EVENT", DROP))
            await page.until('document.querySelectorAll("#pictures img").length == 2')
            await page.run(ASK.replace("TEXT", '"What is it?"'))
            await page.until(f"{LOOKED}.length == 10")
            drawn = [await page.run(SUM)]
            for word, event in ((3, "pointerenter"), (5, "pointerenter"), (5, "pointerleave")):
                await page.run(f"{WORDS}[{word}].dispatchEvent(new PointerEvent('{event}'))")
                drawn.append(await page.run(SUM))
            for do in ("click()", "dispatchEvent(new PointerEvent('pointerleave'))"):
                await page.run(f"{WORDS}[3].{do}")
                drawn.append(await page.run(SUM))
            assert not page.wrong
            shapes = [await page.run(f"{LOOKED}[{at}].width / {LOOKED}[{at}].height") for at in (0, 9)]
            return await page.run(SAID), await page.run(f"{WORDS}.length"), drawn, shapes

    said, words, (answer, third, fifth, left, clicked, held), shapes = asyncio.run(talk())
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "What is it?"}]
    sample = Sample.from_messages([{"role": "user", "content": parts}], images=[red(40), red(20)])
    [expected] = server.engine(window=None).answers([sample], 24, options=Options(split=True))
    assert said == expected.text and words == 1 + len(expected.text)  # the template's space is read as a token too
    assert answer == left and third == clicked == held and len({answer, third, fifth}) == 3
    assert shapes == pytest.approx([20 / 14, 20 / 30], abs=0.01)  # 15 pixels hold 7 patches


def test_pages_may_do_only_what_they_must(talking, served):
    for path in ("/chat", "/chat.js", "/docs"):
        with urllib.request.urlopen(talking.url + path, timeout=30) as answer:
            told = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in told and "script-src 'self'" in told
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(served.url + "/chat", timeout=30)


def test_the_reference_lists_every_route_and_field(served):
    with urllib.request.urlopen(served.url + "/docs", timeout=30) as answer:
        page = answer.read().decode()
    for told in ("POST /v1/chat/completions", "max_visual_tokens", "repetition_penalty", "GET /health", "from 1"):
        assert told in page
    assert "<script" not in page

"""The picture of the page in docs/serve.md: nano, a drawing that it did not learn from, and where its answer looked.

Run: PYTHONPATH=tests python -m serve.screenshot docs/pictures/chat.png
Expect: a file of some tens of kB, the same but for seconds and fonts.
"""

import argparse
import asyncio
import base64
import io
import tempfile
import zipfile
from importlib import resources
from pathlib import Path

import PIL.Image

import vlmlab
from serve import browser, server
from vlmlab.generate.engine import Engine
from vlmlab.serve.media import Pictures
from vlmlab.serve.service import Limits, Service

DRAWING = "0189.jpg"
"""`index pointing up`, of the test split."""

DROP = """
(() => {
  const bytes = Uint8Array.from(atob("DATA"), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], "drawing.jpg", { type: "image/jpeg" }));
  document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
})()
"""
WORD = '[...document.querySelectorAll("article.assistant span > span")].find((one) => one.textContent == " pointing")'


def drawing() -> bytes:
    """The drawing's file."""
    held = resources.files("vlmlab.data.corpora").joinpath("emoji", "pictures.zip").read_bytes()
    return zipfile.ZipFile(io.BytesIO(held)).read(DRAWING)


async def shoot(url: str, to: Path) -> None:
    """Ask about the drawing, point at a word, and keep what the page looks like."""
    with tempfile.TemporaryDirectory() as folder:
        async with browser.opened(Path(folder), 900, 860) as page:
            await page.go(url + "/chat")
            await page.until('document.getElementById("model").textContent == "nano"')
            await page.run('document.getElementById("looking").checked = true')
            await page.run(DROP.replace("DATA", base64.b64encode(drawing()).decode()))
            await page.until('document.querySelectorAll("#pictures img").length == 1')
            ask = 'document.getElementById("text").value = "What is this?"; document.getElementById("send").click()'
            await page.run(ask)
            await page.until('document.querySelectorAll(".looked canvas").length == 1', 300)
            await page.run(f"{WORD}.click()")
            await page.picture(to)
            assert not page.wrong, page.wrong


def main() -> None:
    """Serve nano, and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("to", type=Path)
    to = parser.parse_args().to
    engine = Engine(*vlmlab.load("nano"), rows=2, capacity=512)
    with Pictures() as pictures:
        served = server.Served(Service(engine, ("nano",), Limits(chat=True), pictures)).start()
        try:
            asyncio.run(shoot(served.url, to))
        finally:
            served.stop()
    PIL.Image.open(to).quantize(128).save(to, optimize=True)
    print(f"{to}: {to.stat().st_size} bytes")


if __name__ == "__main__":
    main()

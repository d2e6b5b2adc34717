"""A real browser without a window, told what to do by its debugging protocol."""

import asyncio
import base64
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


class Page:
    """One page of the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.number = socket, 0
        self.wrong: list[str] = []

    async def say(self, method: str, **told: Any) -> dict[str, Any]:
        """One command, and what came of it."""
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": told})
        while True:
            heard = await self.socket.receive_json(timeout=60)
            if heard.get("method") == "Runtime.exceptionThrown":
                self.wrong.append(str(heard["params"]))
            if heard.get("id") == self.number:
                assert "error" not in heard, heard
                return heard["result"]

    async def run(self, script: str) -> Any:
        """The value of an expression on the page; promises are waited for."""
        told = await self.say("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def until(self, script: str, seconds: float = 60) -> None:
        """Wait for an expression to be true."""
        async with asyncio.timeout(seconds):
            while not await self.run(script):
                await asyncio.sleep(0.05)

    async def go(self, url: str) -> None:
        """Open a page."""
        await self.say("Page.navigate", url=url)
        await self.until("document.readyState == 'complete' && location.href != 'about:blank'")

    async def picture(self, path: Path) -> None:
        """What the page looks like, as a file."""
        told = await self.say("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(told["data"]))


@contextlib.asynccontextmanager
async def opened(folder: Path, width: int = 900, height: int = 760) -> AsyncIterator[Page]:
    """A browser with one page; `folder` is where it keeps its things."""
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    words += [
        f"--user-data-dir={folder}",
        "--remote-debugging-port=0",
        f"--window-size={width},{height}",
        "about:blank",
    ]
    process = subprocess.Popen([CHROMIUM, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = await _port(folder / "DevToolsActivePort", process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                [target] = [one for one in await answer.json() if one["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Page", "Runtime"):
                    await page.say(f"{domain}.enable")
                yield page
    finally:
        process.kill()
        process.wait()


async def _port(file: Path, process: subprocess.Popen[bytes]) -> str:
    async with asyncio.timeout(60):
        while not (file.is_file() and file.read_text().strip()):
            assert process.poll() is None, "the browser ended"
            await asyncio.sleep(0.05)
    return file.read_text().split()[0]

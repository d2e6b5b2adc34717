"""The page on which a person judges pairs of answers, served to this machine alone; it needs no script."""

import secrets
import threading
import urllib.parse
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import get_args

import PIL.Image

from vlmlab.data.page import data_url, escape, page
from vlmlab.evaluate.prefer import Pair, Side, Votes

HOST = "127.0.0.1"
_MOST_BYTES = 4096

STYLE = """
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; } .two .card { margin: 0; white-space: pre-wrap;
  overflow-wrap: anywhere; } .shots { display: flex; flex-wrap: wrap; gap: 10px; } .shots img { max-height: 420px; }
.asked { white-space: pre-wrap; font-weight: 600; } form { display: grid; grid-template-columns: 2fr 1fr 2fr; gap: 16px;
  margin-top: 16px; } button { font: inherit; padding: 12px; border-radius: 10px; border: 1px solid var(--line);
  background: var(--mark); color: var(--text); cursor: pointer; }
"""

BUTTONS: dict[Side, str] = {"left": "The left is better", "tie": "Equally good", "right": "The right is better"}

Show = Callable[[Pair], Sequence[PIL.Image.Image]]
"""The pictures of a pair's prompt."""


class Judging:
    """Serves pairs to one judge until all are judged. `port` 0 takes a free one; ValueError for one that is taken.

    Only this machine is answered, under its own name, and a vote needs the word that its page holds: no other page that
    the browser has open can give one.
    """

    def __init__(self, pairs: Sequence[Pair], votes: Votes, judge: str, show: Show, port: int = 0) -> None:
        self.pairs = {pair.key: pair for pair in pairs if not pair.same}
        self.votes, self.judge, self.show = votes, judge, show
        self.word = secrets.token_hex(16)
        self.lock = threading.Lock()
        self.done = threading.Event()
        self.last = ""
        try:
            self.server = ThreadingHTTPServer((HOST, port), _handler(self))
        except (OSError, OverflowError) as error:
            raise ValueError(f"port {port} of {HOST}: {error}; name another, or 0 for a free one") from None
        self.address = f"http://{HOST}:{self.server.server_port}/"
        self._check()

    def __enter__(self) -> "Judging":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def names(self) -> set[str]:
        """What this machine may be called in a request."""
        port = self.server.server_port
        return {f"{HOST}:{port}", f"localhost:{port}"}

    def vote(self, form: dict[str, str]) -> bool:
        """Take a vote from a form; whether it is one."""
        side, pair = form.get("side"), self.pairs.get(form.get("pair", ""))
        if not secrets.compare_digest(form.get("word", "").encode(), self.word.encode()) or pair is None:
            return False
        chosen: Side | None = next((known for known in get_args(Side) if known == side), None)
        if chosen is None:
            return False
        with self.lock:
            self.votes.give(self.judge, pair, chosen)
            self.last = pair.key
        self._check()
        return True

    def page(self, key: str = "") -> str:
        """The page of a pair (the next one, where none is named); of thanks, when all are judged."""
        left = self.votes.left(self.judge, list(self.pairs.values()))
        pair = self.pairs.get(key) or (left[0] if left else None)
        again = f'<p class="note"><a href="/?pair={self.last}">change the last vote</a></p>' if self.last else ""
        if pair is None:
            return page("All are judged", "Thank you. The result stands where this was started.", again, "", STYLE)
        number = len(self.pairs) - len(left)
        lead = f"{number} of {len(self.pairs)} are judged. You may close this page and go on later."
        shots = "".join(f'<img src="{data_url(shot, lossless=False)}" alt="">' for shot in self.show(pair))
        told = {"pair": pair.key, "word": self.word}
        hidden = "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in told.items())
        buttons = "".join(f'<button name="side" value="{side}">{label}</button>' for side, label in BUTTONS.items())
        body = (
            f'<div class="shots">{shots}</div><p class="asked">{escape(pair.a.text)}</p><div class="two">'
            f'<section class="card">{escape(pair.left) or "(nothing)"}</section>'
            f'<section class="card">{escape(pair.right) or "(nothing)"}</section></div>'
            f'<form method="post" action="/">{hidden}{buttons}</form>{again}'
        )
        return page("Which answer is better?", lead, body, "", STYLE)

    def _check(self) -> None:
        if not self.votes.left(self.judge, list(self.pairs.values())):
            self.done.set()


def _handler(judging: Judging) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 30.0

        def do_GET(self) -> None:
            place = urllib.parse.urlsplit(self.path)
            if self.headers.get("Host") not in judging.names():
                self._say(HTTPStatus.FORBIDDEN)
            elif place.path != "/":
                self._say(HTTPStatus.NOT_FOUND)
            else:
                asked = urllib.parse.parse_qs(place.query).get("pair", [""])[0]
                self._say(HTTPStatus.OK, judging.page(asked))

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if self.headers.get("Host") not in judging.names() or not length.isdecimal():
                self._say(HTTPStatus.FORBIDDEN)
                return
            if int(length) > _MOST_BYTES:
                self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                return
            words = urllib.parse.parse_qs(self.rfile.read(int(length)).decode("ascii", "replace"))
            if not judging.vote({name: values[0] for name, values in words.items()}):
                self._say(HTTPStatus.FORBIDDEN)
                return
            self.send_response(HTTPStatus.SEE_OTHER)
            self.send_header("Location", "/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _say(self, status: HTTPStatus, text: str = "") -> None:
            body = (text or status.phrase).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8" if text else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Frame-Options", "DENY")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *words: object) -> None:
            """Nothing is logged: the votes are on disk."""

    return Handler

"""HTML pages that stand alone: nothing is requested from anywhere, and they follow a dark or light screen."""

import base64
import html
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import PIL.Image

STYLE = """
:root { --back: #f6f7f9; --card: #fff; --text: #1d2430; --quiet: #66707f; --line: #e1e5ec; --accent: #2563eb;
  --learned: #d8f3e3; --learned-text: #0b5b36; --mark: #e3ebfd; --wrong: #b42318; }
@media (prefers-color-scheme: dark) { :root { --back: #0f1217; --card: #181c23; --text: #e6e9ee; --quiet: #98a2b3;
  --line: #2a303b; --accent: #7aa7ff; --learned: #143d2a; --learned-text: #9fe6bf; --mark: #1d2b4a;
  --wrong: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text); font: 15px/1.55 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 16px; margin: 0 0 12px; }
p { margin: 6px 0; } .quiet, small { color: var(--quiet); } .note { font-size: 13px; color: var(--quiet); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px;
  margin: 18px 0; }
code, .t { font-family: ui-monospace, monospace; font-size: 13px; }
figure { margin: 0; } figcaption { font-size: 12px; color: var(--quiet); margin-top: 6px; }
img { display: block; max-width: 100%; border-radius: 6px; background: #fff; }
footer { margin-top: 28px; font-size: 12px; color: var(--quiet); overflow-wrap: anywhere; }
"""


def page(title: str, lead: str, body: str, made_by: str, style: str = "") -> str:
    """A whole page. `body` and `style` are HTML and CSS already; `title`, `lead` and `made_by` are plain text."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{STYLE}{style}</style></head>\n'
        f'<body><main>\n<h1>{escape(title)}</h1>\n<p class="quiet">{escape(lead)}</p>\n{body}\n'
        f"<footer>{escape(made_by)}</footer>\n</main></body></html>\n"
    )


def escape(text: str) -> str:
    """Text as HTML shows it, in content and in quoted attributes; control characters are shown, not obeyed."""
    shown = "".join(c if c >= " " or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
    return html.escape(shown.replace("\x7f", "\\x7f"))


def data_url(image: "PIL.Image.Image", lossless: bool = True) -> str:
    """A picture as a data URL: PNG, or JPEG where exact pixels do not matter."""
    held = io.BytesIO()
    if lossless:
        image.save(held, "PNG")
    else:
        image.convert("RGB").save(held, "JPEG", quality=85)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}"

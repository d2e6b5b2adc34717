"""Pictures from elsewhere, safely: data URLs. (http and https follow.)"""

import base64
import binascii

MAX_BYTES = 32 << 20
"""The most bytes a picture's file may have."""


def read_data_url(url: str, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a `data:...;base64,...` URL. Raises ValueError when it is no such URL, or too large."""
    head, found, body = url.partition(",")
    if not found or not head.startswith("data:") or not head.endswith(";base64"):
        raise ValueError("a data URL should look like data:image/png;base64,...")
    if len(body) * 3 // 4 > max_bytes + 3:
        raise ValueError(f"the data URL holds more than {max_bytes} bytes")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the data URL is not valid base64: {error}") from None

"""What happens, one line each: `stored series=1.2.3 images=212`. Series are told by their UIDs, patients never."""

import json
import logging
from typing import Any

from mamba_unet.volumes.formats import printable

log = logging.getLogger("mamba_unet.listen")


def event(name: str, *, warn: bool = False, **fields: Any) -> None:
    """Log one event; a value with spaces is quoted."""
    words = [name, *(f"{key}={_word(value)}" for key, value in fields.items())]
    log.log(logging.WARNING if warn else logging.INFO, " ".join(words))


def _word(value: Any) -> str:
    text = printable(f"{value:.1f}" if isinstance(value, float) else str(value))
    return text if text and not set(text) & set(' "=') else json.dumps(text, ensure_ascii=False)

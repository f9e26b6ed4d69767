"""What happens, one line each: `stored series=1.2.3 images=212`. Series are told by their UIDs, patients never."""

import logging
from typing import Any

from mamba_unet import monitoring

log = logging.getLogger("mamba_unet.listen")


def event(name: str, *, warn: bool = False, **fields: Any) -> None:
    """Log one event of the node."""
    monitoring.event(log, name, logging.WARNING if warn else logging.INFO, **fields)

"""How much memory one input may take: asked for before it is, because a small file can claim to be a large one."""

import os
from pathlib import Path

from mamba_unet.volumes.formats import UnreadableError

GIB = 1 << 30


def default_limit() -> int:
    """8 GiB, or half of the machine's memory where that is less, in bytes."""
    try:
        return min(8 * GIB, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    except (AttributeError, ValueError, OSError):  # systems that do not tell, such as Windows
        return 8 * GIB


max_bytes = default_limit()


def require_memory(path: Path, bytes_wanted: int) -> None:
    """Refuse an input that would take more than `max_bytes` of memory.

    Raises:
        UnreadableError: names the file, what it wants and the limit.
    """
    if bytes_wanted > max_bytes:
        raise UnreadableError(
            path,
            f"needs {bytes_wanted / GIB:.3g} GiB of memory, the limit is {max_bytes / GIB:.3g} GiB; if the file is "
            "what you expect and the machine has the memory, raise the limit, else the file is damaged",
        )

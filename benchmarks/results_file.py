"""Where a benchmark's result goes: results/<what>_<hardware>_<date>.md for people and .json for programs."""

import datetime
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mamba_unet.environment import describe_environment, hardware_name
from mamba_unet.files import write_json, write_text

RESULTS = Path(__file__).parent / "results"


def write_result(what: str, title: str, lines: Sequence[str], values: dict[str, Any]) -> Path:
    """Write both files, each with the machine, the versions and the date in it, and return the first.

    Args:
        what: begins the files' names.
        title: heading of the page.
        lines: Markdown below the heading and the line on the machine.
        values: everything measured, ready for JSON.
    """
    hardware, date, environment = hardware_name(), datetime.date.today().isoformat(), describe_environment()
    slug = re.sub(r"[^a-z0-9]+", "-", hardware.lower()).strip("-")
    path = RESULTS / f"{what}_{slug}_{date}.md"
    machine = f"{hardware}; torch {environment['torch']}, Python {environment['python']}; {date}"
    write_json(path.with_suffix(".json"), {"hardware": hardware, "date": date, "environment": environment, **values})
    write_text(path, "\n".join([f"# {title}", "", f"Machine: {machine}", "", *lines]) + "\n")
    print(f"written to {path}")
    return path

"""The documentation site builds without a warning, says what the code has, and asks nothing of other machines."""

import argparse
import html
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import mamba_unet
from mamba_unet.commands import COMMANDS

for name in ("mkdocs", "material", "mkdocstrings"):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed (extra docs)", allow_module_level=True)
ROOT = Path(__file__).resolve().parents[1]
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = tmp_path_factory.mktemp("site")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and not done.stderr.strip(), done.stdout + done.stderr
    return site


def page(site, name: str) -> str:
    return (site / name).read_text(encoding="utf-8")


def test_every_command_and_every_public_name_is_described(site):
    commands, functions = page(site, "reference/commands.html"), page(site, "reference/python.html")
    assert all(f'<h2 id="{it.__name__.rpartition(".")[2].replace("_", "-")}">' in commands for it in COMMANDS)
    parser = argparse.ArgumentParser().add_subparsers()
    for command in COMMANDS:
        command.add(parser)
    options = [word for it in parser.choices.values() for action in it._actions for word in action.option_strings]
    assert len(options) > 50 and not [word for word in options if word not in commands and word not in ("-h", "--help")]
    for name in mamba_unet._PUBLIC:
        assert re.search(rf'<h3 id="mamba_unet\.[\w.]*\.{name}"', functions), name
    first = inspect.getdoc(mamba_unet.evaluate).splitlines()[0]
    assert first in html.unescape(re.sub(r"<[^>]+>", "", functions))
    assert "lr_pretrained_factor" in page(site, "recipes.html")


def test_pages_lead_to_one_another_and_to_nothing_of_the_repository(site):
    start = page(site, "index.html")
    assert 'href="trained_networks.html"' in start and "images/demo_segmentations.png" in start
    assert "checkpoints/README.md" not in re.sub(r"<code>.*?</code>", "", start)
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert decisions and all(
        f'href="decisions/{path.stem}.html"' in page(site, "architecture.html") for path in decisions
    )
    for path in (ROOT / "docs").glob("*.md"):
        assert f'href="{path.stem}.html"' in page(site, "architecture.html"), f"{path.name} is in no list"


def test_a_page_loads_nothing_from_elsewhere(site):
    loaded = []

    class Collector(HTMLParser):
        def handle_starttag(self, tag, attributes):
            given = dict(attributes)
            if tag in LOADING and given.get("rel") not in ("canonical", "next", "prev"):
                loaded.append(given.get(LOADING[tag]) or "")

    for path in site.rglob("*.html"):
        Collector().feed(path.read_text(encoding="utf-8"))
    assert any(address.endswith(".js") for address in loaded)
    assert not [address for address in loaded if re.match(r"(https?:)?//", address)]
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*", styles)

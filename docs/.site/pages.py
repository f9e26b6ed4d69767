"""MkDocs hook: the pages of the site that are made from the code and from files outside docs/.

The reference of the commands comes from their argparse parsers, that of the Python functions from `__all__` and the
docstrings, the start page from README.md. docs/recipes.md is made from the recipe's dataclasses by the package itself.
"""

import argparse
import importlib
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, Files

import mamba_unet
from mamba_unet.cli import build_parser

ROOT = Path(__file__).resolve().parents[2]

# file of the repository -> page of the site
BROUGHT = {"README.md": "index.md", "checkpoints/README.md": "trained_networks.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
GROUPS = {"positional arguments": "Arguments", "options": "Options", "optional arguments": "Options"}
PARTS = {  # title -> module whose `__all__` is described
    "Data": "mamba_unet.data",
    "Networks": "mamba_unet.models",
    "The selective scan": "mamba_unet.ops",
    "Prediction": "mamba_unet.inference",
}
SINGLE = {  # public, and in no `__all__`
    "mamba_unet.evaluation.metrics": ["segmentation_metrics", "Conventions"],
    "mamba_unet.evaluation.cases": ["evaluate_cases"],
    "mamba_unet.training.recipe": ["Recipe", "load_recipe", "save_recipe", "list_recipes"],
    "mamba_unet.volumes.read": ["read_volume"],
    "mamba_unet.volumes.volume": ["Volume"],
}


def on_config(config):
    """Put the decisions, and pages that no list of mkdocs.yml names, into the navigation."""
    docs = Path(config.docs_dir)
    decisions = [{_title(path): f"decisions/{path.name}"} for path in sorted((docs / "decisions").glob("*.md"))]
    section = {next(iter(entry)): next(iter(entry.values())) for entry in config.nav}
    section["Background"].append({"Decisions": decisions})
    named = set(_paths(config.nav))
    rest = [path for path in sorted(docs.glob("*.md")) if path.name not in named]
    if rest:
        section["Guides"].append({"More": [{_title(path): path.name} for path in rest]})
    return config


def on_files(files: Files, config) -> Files:
    pages = {
        "reference/commands.md": commands_page(build_parser()),
        "reference/python.md": python_page(),
        **{page: linked((ROOT / file).read_text(encoding="utf-8"), file, page) for file, page in BROUGHT.items()},
    }
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    icon = ROOT / "src" / "mamba_unet" / "serve" / "static" / "icon.svg"
    files.append(File.generated(config, "images/icon.svg", abs_src_path=str(icon)))
    return files


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")


def _paths(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [path for entry in (nav.values() if isinstance(nav, dict) else nav) for path in _paths(entry)]


def on_page_markdown(markdown: str, page, **_) -> str:
    """Links of a page in docs/ to files outside."""
    return markdown if page.file.generated_by else linked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def linked(text: str, name: str, page: str) -> str:
    """Markdown of a file of the repository with its links as the site has them.

    Args:
        text: of the file.
        name: of the file in the repository.
        page: that it becomes. A link to a file that is no page becomes plain text.
    """

    def link(match: re.Match) -> str:
        picture, words, target = match.groups()
        if target.startswith(("http://", "https://", "#")):
            return match[0]
        path, sign, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(name), path))
        path = BROUGHT.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if path is None:
            return words
        return f"{picture}[{words}]({posixpath.relpath(path, posixpath.dirname(page) or '.')}{sign}{anchor})"

    return LINK.sub(link, text)


def commands_page(parser: argparse.ArgumentParser) -> str:
    """Every command with its usage, arguments and options, as Markdown."""
    lines = ["# Commands", "", "`mamba-unet COMMAND --help` says the same. Exit codes: 0, 1 where a case or a file was"]
    lines += ["bad, 2 for wrong words or input, 130 at Ctrl-C.", ""]
    [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for name, command in commands.choices.items():
        usage = re.sub(r"\s+", " ", command.format_usage().removeprefix("usage: "))
        lines += [f"## {name}", "", command.description, "", "```text", usage.strip(), "```", ""]
        for group in command._action_groups:
            rows = [row for action in group._group_actions if (row := _row(command, action))]
            if rows:
                title = GROUPS.get(group.title, group.title[0].upper() + group.title[1:])
                lines += [f"| {title} | |", "|---|---|", *rows, ""]
        if command.get_default("takes_keys"):
            lines += ["Every key of a [recipe](../recipes.md) can be given as `--KEY VALUE`.", ""]
    return "\n".join(lines)


def _row(command: argparse.ArgumentParser, action: argparse.Action) -> str | None:
    if isinstance(action, argparse._HelpAction) or action.help == argparse.SUPPRESS:
        return None
    formatter = command._get_formatter()
    words = formatter._format_action_invocation(action)
    meaning = formatter._expand_help(action) if action.help else ""
    meaning += " (required)" if action.option_strings and action.required else ""
    return f"| `{_cell(words)}` | {_cell(meaning).replace('<', '&lt;').replace('*', chr(92) + '*')} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def python_page() -> str:
    """Every public name, described by mkdocstrings from its docstring."""
    lines = ["# Python functions", "", "`import mamba_unet as mu` gives the names of the first part; the others are"]
    lines += ["imported from the module that stands above them. How they are used: [From Python](../python.md).", ""]
    parts = {"mamba_unet": [name for name in sorted(mamba_unet._PUBLIC)]}
    shown = {(mamba_unet._PUBLIC[name], name) for name in parts["mamba_unet"]}
    lines += ["## mamba_unet", ""]
    lines += [line for name in parts["mamba_unet"] for line in _directive(_home(mamba_unet._PUBLIC[name], name))]
    described = {_home(module, name) for module, name in shown}
    for title, module in PARTS.items():
        names = [name for name in importlib.import_module(module).__all__ if _home(module, name) not in described]
        lines += [f"## {title}: `{module}`", ""] if names else []
        lines += [line for name in names for line in _directive(_home(module, name))]
        described |= {_home(module, name) for name in names}
    for module, names in SINGLE.items():
        left = [name for name in names if _home(module, name) not in described]
        lines += [f"## `{module}`", ""] if left else []
        lines += [line for name in left for line in _directive(_home(module, name))]
    return "\n".join(lines)


def _home(module: str, name: str) -> str:
    """Where a public name is defined."""
    return f"{getattr(getattr(importlib.import_module(module), name), '__module__', module)}.{name}"


def _directive(path: str) -> list[str]:
    return [f"::: {path}", ""]

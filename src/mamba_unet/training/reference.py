"""docs/recipes.md, made from the recipe's dataclasses: `python -m mamba_unet.training.reference > docs/recipes.md`."""

import inspect
import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass

from mamba_unet.training.recipe import PLACE_KEYS, Recipe, list_recipes
from mamba_unet.views.view import KINDS
from mamba_unet.words import kind_of

HEAD = """\
# Recipes

A recipe is a YAML file that holds one experiment. Every key has a default, the paper's, so a recipe names only what \
differs. `base` names another recipe, by its name or by a path relative to the file, whose keys this one overrides.

```
mamba-unet train acdc_mamba_unet --data data/acdc --out runs/acdc                # a recipe that ships with the package
mamba-unet train my.yaml --data data/acdc --out runs/mine --optimizer.lr 0.005   # a file; every key can be overridden
```

```python
from mamba_unet.training.train import train

train("acdc_mamba_unet", data="data/acdc", out="runs/acdc", iterations=500, optimizer={"lr": 0.005})
```

```yaml
# my.yaml
base: acdc_mamba_unet
pretrained: vssmtiny_dp01_ckpt_epoch_292.pth
optimizer:
  lr_pretrained_factor: 0.1
```

`--resume` goes on with a run of the same experiment. Keys marked *place* say where and how it is computed and may \
change then; all others must stay.
"""


KIND = "What the network sees: slices, for 2D networks, or patches, for 3D ones; it decides the other keys."


def recipe_reference() -> str:
    """Every key of a recipe with type, default and meaning, and the recipes that ship with the package, as Markdown."""
    lines = [HEAD, "## Keys", "", "| key | type | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{key}` | {kind} | {default} | {meaning} |" for key, kind, default, meaning in _rows(Recipe)]
    lines += ["", "## Recipes that ship with the package", "", "| name | |", "|---|---|"]
    lines += [f"| `{name}` | {header} |" for name, header in list_recipes().items()]
    return "\n".join(lines) + "\n"


def _rows(config: type, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    meanings = _meanings(config)
    for f in fields(config):
        if f.name == "view":
            yield "view.kind", " or ".join(f"`{kind}`" for kind in KINDS), '`"slices"`', KIND
            for kind, view in KINDS.items():
                for key, type_, default, text in _rows(view, "view."):
                    yield key, type_, default, f"*{kind}:* {text}"
        elif is_dataclass(f.type):
            yield from _rows(f.type, f"{prefix}{f.name}.")
        else:
            key = prefix + f.name
            place = " *place*" if key in PLACE_KEYS else ""
            yield key, kind_of(f.type), f"`{_default(f)}`", meanings[f.name].replace("|", "\\|") + place


def _meanings(config: type) -> dict[str, str]:
    """Field -> its description in the class's docstring. Raises KeyError later for a field that has none."""
    section = inspect.cleandoc(config.__doc__).split("Attributes:\n")[1]
    entries = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE)
    sentences = {name: re.sub(r"\s+", " ", text) for name, text in entries}
    return {name: text if text.startswith("`") else text[0].upper() + text[1:] for name, text in sentences.items()}


def _default(f: Field) -> str:
    value = f.default if f.default is not MISSING else f.default_factory()
    return json.dumps(value)


if __name__ == "__main__":
    print(recipe_reference(), end="")

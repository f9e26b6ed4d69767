"""How many iterations of each recipe fit in equal time, and recipes that train just so many.

    python benchmarks/rates.py acdc_scratch acdc_scratch_unet --source path/to/ACDC --out OUT --minutes 20
    python benchmarks/comparison.py OUT/recipes/*.yaml --source path/to/ACDC --out OUT --seeds 0,1,2

A limit of time (`minutes` in a recipe) gives less to a training that has to share its machine, and cannot be repeated.
So the time is measured first and turned into a number of iterations. The recipes take turns, so that whatever else
slows the machine down slows all of them. In a turn the real training runs: loading, augmentation, step, one validation
with what it saves. Medians count, without the first quarter of each turn. Every network gets the same number of
validations, whose time is part of the budget, and its warm-up is at most a tenth of its iterations. Further words
override all recipes; those that change the time belong here, for the comparison takes the recipes as they are.

What is measured is kept in OUT/rates.json: a call that was stopped goes on, and one that names more recipes measures
only those. Recipes that are written stay as they are.

A table that grows over machines needs one machine whose minutes count. --at RESULT.json, which an earlier call wrote
there, brings the seconds measured here to those of that machine: times the median ratio over the recipes that both
measured. Where no recipe is in common, as of 3D networks with 2D ones, give a result of this machine that was brought
there: its ratios are taken.

Writes OUT/recipes/NAME.yaml and benchmarks/results/rates_<data>[_<name>]_<hardware>_<date>.md and .json.
"""

import argparse
import dataclasses
import json
import math
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mamba_unet.commands.options import positive
from mamba_unet.data import PreparedDataset
from mamba_unet.files import write_json, write_text
from mamba_unet.training.progress import Progress
from mamba_unet.training.recipe import SHIPPED, Recipe, find_recipe, load_recipe
from mamba_unet.training.train import train
from mamba_unet.words import counted
from measuring import axes, result_path, run, table, write_result


@dataclass
class Rate(Progress):
    """A stopwatch of trainings: seconds of each iteration, what comes before it included, and of each validation."""

    iterations: list[float] = field(default_factory=list)
    validations: list[float] = field(default_factory=list)

    def start(self, step: int, iterations: int, seconds: float | None = None) -> None:
        self.warmup, self.since = iterations // 4, time.perf_counter()

    def step(self, step: int, loss: float) -> None:
        seconds = self._lap()
        if step > self.warmup:
            self.iterations.append(seconds)

    def validated(self, step: int, dice: float, best: float) -> None:
        self.validations.append(self._lap())

    def _lap(self) -> float:
        before, self.since = self.since, time.perf_counter()
        return self.since - before


def budget(rate: Rate, recipe: Recipe, minutes: float, validations: int) -> dict[str, Any]:
    """The keys of a recipe that uses the minutes up.

    Raises:
        ValueError: fewer iterations than validations fit.
    """
    iteration, validation = statistics.median(rate.iterations), statistics.median(rate.validations)
    fits = math.floor((60 * minutes - validations * validation) / iteration)
    if fits < validations:
        raise ValueError(
            f"{recipe.model.name}: in {minutes:g} minutes {max(0, fits)} iterations of {iteration:.2f} s fit beside "
            f"{validations} validations of {validation:.1f} s; give more --minutes or fewer --validations"
        )
    return {
        "iterations": fits,
        "validate_every": math.ceil(fits / validations),
        "minutes": None,
        "optimizer.warmup": min(recipe.optimizer.warmup, fits // 10),
    }


def ratios_to(
    there: Mapping[str, Rate], here: Mapping[str, Rate], otherwise: Mapping[str, float] | None = None
) -> Mapping[str, float]:
    """Seconds of another machine for a second of this one: of iterations, and of validations.

    Raises:
        ValueError: no recipe was measured on both, and it is not said what is true `otherwise`.
    """
    both = there.keys() & here.keys()
    if not both:
        if otherwise:
            return otherwise
        raise ValueError(f"no recipe in common: there {', '.join(there)}; here {', '.join(here)}")
    return {
        what: statistics.median(
            statistics.median(getattr(there[name], what)) / statistics.median(getattr(here[name], what))
            for name in both
        )
        for what in ("iterations", "validations")
    }


def brought_to(ratios: Mapping[str, float], rate: Rate) -> Rate:
    """A rate as the other machine has it."""
    return Rate(*([ratio * seconds for seconds in getattr(rate, what)] for what, ratio in ratios.items()))


def difference(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `other` whose value is not that of `base`, in their groups."""
    changed = {}
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            if below := difference(base[key], value):
                changed[key] = below
        elif value != base.get(key):
            changed[key] = list(value) if isinstance(value, tuple) else value
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", help="names of recipes, or files")
    parser.add_argument("--source", type=Path, required=True, help="the data set as downloaded")
    parser.add_argument("--split", type=Path, help="a split file of `prepare`")
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    parser.add_argument("--minutes", type=float, required=True, help="for each training, validations included")
    parser.add_argument("--validations", type=positive, default=5, help="of each training (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3, help="of each recipe (default: %(default)s)")
    parser.add_argument("--at", type=Path, metavar="RESULT.json", help="rates of the machine whose minutes count")
    parser.add_argument("--name", help="a word in the result's name that tells it from others of the same day")
    parser.add_argument("--steps", type=int, default=12, help="iterations in a turn (default: %(default)s)")
    args, words = parser.parse_known_args()

    data, folder = args.out / "data", args.out / "recipes"
    bases = {Path(recipe).stem: find_recipe(recipe) for recipe in args.recipes}
    recipes = {name: load_recipe(path, words) for name, path in bases.items()}
    run("prepare", args.source, data, *(["--split", args.split] if args.split else []))

    kept, how = args.out / "rates.json", {"steps": args.steps, "words": words}
    said = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {"how": how, "turns": {}}
    if said["how"] != how:
        sys.exit(f"{kept} was measured with {said['how']}, now {how} is asked for; give another --out")
    turns = {name: [Rate(**rate) for rate in said["turns"].get(name, ())] for name in recipes}
    for turn in range(args.turns):
        for name, recipe in recipes.items():
            if turn < len(turns[name]):
                continue
            print(f"turn {turn + 1} of {args.turns}: {name}", flush=True)
            scratch = args.out / "measured"
            shutil.rmtree(scratch, ignore_errors=True)
            short = {"iterations": args.steps, "validate_every": args.steps, "minutes": None}
            turns[name].append(Rate())
            train(recipe, data, scratch, progress=turns[name][-1], **short)
            shutil.rmtree(scratch)
            said["turns"][name] = [dataclasses.asdict(rate) for rate in turns[name]]
            write_json(kept, said)
    rates = {
        name: Rate(*([s for rate in theirs for s in getattr(rate, what)] for what in ("iterations", "validations")))
        for name, theirs in turns.items()
    }

    ratios: Mapping[str, float] = {}
    if args.at:
        there = json.loads(args.at.read_text(encoding="utf-8"))
        measured = {name: Rate(**said["seconds"]) for name, said in there["networks"].items()}
        ratios = ratios_to(measured, rates, there.get("ratios"))
        rates = {name: brought_to(ratios, rate) for name, rate in rates.items()}

    what = f"rates_{PreparedDataset(data).name}{axes(recipes.values())}" + (f"_{args.name}" if args.name else "")
    rows, values = [], {}
    for name, recipe in recipes.items():
        keys = budget(rates[name], recipe, args.minutes, args.validations)
        before, after = load_recipe(bases[name]), load_recipe(recipe, keys)
        changed = difference(dataclasses.asdict(before), dataclasses.asdict(after))
        base = name if bases[name].parent == SHIPPED else str(bases[name].resolve())
        source = f"benchmarks/results/{result_path(what).name}"
        text = f"# As many iterations of {name} as fit in {args.minutes:g} minutes, by {source}\n"
        text += yaml.safe_dump({"base": base, **changed}, sort_keys=False)
        if not (written := folder / f"{name}.yaml").exists():
            write_text(written, text)
        elif written.read_text(encoding="utf-8") != text:  # trainings by it may be there
            sys.exit(f"{written} is there already and says something else; give another --out")
        medians = [statistics.median(seconds) for seconds in (rates[name].iterations, rates[name].validations)]
        counts = [keys[key] for key in ("iterations", "validate_every", "optimizer.warmup")]
        rows.append([name, *(f"{median:.3g}" for median in medians), *counts])
        values[name] = {"seconds": dataclasses.asdict(rates[name]), "recipe": changed}

    given = [*(Path(recipe).stem for recipe in args.recipes), "--source", args.source.name, "--out", args.out.name]
    given += ["--split", args.split.name] if args.split else []
    given += ["--minutes", f"{args.minutes:g}", "--validations", str(args.validations)]
    given += ["--turns", str(args.turns), "--steps", str(args.steps)]
    given += [*(["--at", args.at.name] if args.at else []), *(["--name", args.name] if args.name else []), *words]
    command = "python benchmarks/rates.py " + shlex.join(given)
    lines = [
        f"Command: `{command}`",
        "",
        f"{counted(args.turns, 'turn')} of {args.steps} iterations and one validation of each recipe; medians "
        f"without the first quarter of each turn. Iterations: what fits in {args.minutes:g} minutes with "
        f"{args.validations} validations.",
        *(
            [
                "",
                f"The minutes are those of `{args.at.name}`: seconds were measured here and multiplied by "
                f"{ratios['iterations']:.3g} (iterations) and {ratios['validations']:.3g} (validations), medians over "
                "recipes measured on both machines.",
            ]
            if args.at
            else []
        ),
        "",
        table(["recipe", "s / iteration", "s / validation", "iterations", "validated every", "warm-up"], rows),
    ]
    values = {"command": command, "minutes": args.minutes, "validations": args.validations, "networks": values}
    values |= {"at": args.at.name, "ratios": ratios} if args.at else {}
    write_result(what, f"What fits in {args.minutes:g} minutes", lines, values)


if __name__ == "__main__":
    main()

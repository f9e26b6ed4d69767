"""Which changes of the source no test notices: small faults put into the modules that compute numbers, one at a time.

    python benchmarks/mutate.py                         # all modules below; about an hour on one core
    python benchmarks/mutate.py evaluation/metrics.py   # one of them, printed alone

A fault is one comparison, operator, number, truth value, condition or statement changed. Texts of errors are left as
they are. Each fault is met in a forked process, which runs the tests that reach its line, the fastest first, until one
fails. Survivors are listed with the line as it was changed; those of which `EQUIVALENT` knows why no test can
notice them are counted apart. Writes benchmarks/results/mutation_<hardware>_<date>.md and .json. Linux and macOS.
"""

import argparse
import ast
import copy
import gc
import importlib.machinery
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "mamba_unet"
sys.path.insert(0, str(ROOT / "src"))  # the modules that are changed are those that the tests import
EVALUATION = ("tests/evaluation",)
MODULES = {
    "evaluation/metrics.py": EVALUATION,
    "evaluation/significance.py": EVALUATION,
    "evaluation/summary.py": EVALUATION,
    "evaluation/cases.py": EVALUATION,
    "training/objectives/losses.py": ("tests/training/objectives/test_losses.py",),
    "volumes/geometry.py": ("tests/volumes/test_geometry.py", "tests/volumes/test_volume.py"),
    "data/splits.py": ("tests/data/test_splits.py",),
    "measures/statistics.py": ("tests/measures/test_statistics.py",),
    "measures/cardiac.py": ("tests/measures/test_cardiac.py",),
}
REWRITE = ("-W", "ignore::pytest.PytestAssertRewriteWarning")  # hypothesis is imported before the forks
LONGEST_S = 60  # of the tests of one fault: one that never ends is noticed too
# module -> line as it was changed -> why it means the same
EQUIVALENT: dict[str, dict[str, str]] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list", "maximum": "minimum", "abs": "float"}


@dataclass
class Mutant:
    """A fault: the compiled module with it, the line it is in, that line and what was changed in it, and whether it is
    outside of functions, so that all tests may meet it."""

    code: CodeType
    line: int
    text: str
    everywhere: bool


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """The node with each fault that it can have."""
    match node:
        case ast.Compare(ops=ops):
            for position, operator in enumerate(ops):
                for other in COMPARISONS[type(operator)]:
                    changed = copy.copy(node)
                    changed.ops = [*ops[:position], other(), *ops[position + 1 :]]
                    yield changed
        case ast.BinOp(op=operator) | ast.AugAssign(op=operator) if type(operator) in OPERATORS:
            changed = copy.copy(node)
            changed.op = OPERATORS[type(operator)]()
            yield changed
        case ast.BoolOp(op=operator):
            changed = copy.copy(node)
            changed.op = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield changed
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
            if value > 0:
                yield ast.Constant(value - 1)
        case ast.Constant(value=float(value)):
            yield ast.Constant(value * 1.5 if value else 1.0)
        case ast.IfExp(body=body, orelse=other):
            yield body
            yield other
        case ast.If():
            for value in (True, False):
                changed = copy.copy(node)
                changed.test = ast.Constant(value)
                yield changed
        case ast.Name(id=name) if name in NAMES:
            yield ast.Name(NAMES[name], node.ctx)
        case ast.Attribute(attr=name) if name in NAMES and isinstance(node.ctx, ast.Load):
            changed = copy.copy(node)
            changed.attr = NAMES[name]
            yield changed
        case ast.Raise() | ast.Continue() | ast.Break() | ast.AugAssign():
            yield ast.Pass()
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()


def positions(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.AST, str, int | None, ast.AST, bool]]:
    """(parent, field, position in it, node, within a function) of all that may be changed: no texts, no annotations,
    nothing of what is raised."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "exc", "cause", "format_spec"):
            continue
        for position, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            within = inside or (isinstance(node, ast.FunctionDef | ast.Lambda) and name == "body")
            yield node, name, position, child, within
            yield from positions(child, within)


def mutants(path: Path) -> Iterator[Mutant]:
    source = path.read_text(encoding="utf-8")
    lines, tree = source.splitlines(), ast.parse(source)
    for parent, name, position, node, inside in list(positions(tree)):
        for new in changes(node):
            ast.copy_location(new, node)
            place(parent, name, position, new)
            shown = (part.test if isinstance(part, ast.If) else part for part in (node, new))
            before, after = (" ".join(ast.unparse(part).split())[:100] for part in shown)
            text = f"{lines[node.lineno - 1].strip()}  # {before} -> {after}"
            yield Mutant(compile(ast.fix_missing_locations(tree), str(path), "exec"), node.lineno, text, not inside)
            place(parent, name, position, node)


def place(parent: ast.AST, name: str, position: int | None, node: ast.AST) -> None:
    if position is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[position] = node


class Session:
    """A pytest plugin that, in place of running the tests once, tries faults: each in a fork of the process that has
    collected the tests, where the functions of the module get the code with the fault.

    Args:
        path: of the module.
        faults: by a key, those within functions.
        done: called with the key of each, and whether a test noticed it; None where only the whole module shows that.
    """

    def __init__(self, path: Path, faults: Mapping[str, Mutant], done: Callable[[str, bool | None], None]) -> None:
        self.path, self.faults, self.done = str(path), faults, done
        self.tests: dict[str, tuple[float, list[int]]] = {}

    def pytest_runtestloop(self, session):
        items = {item.nodeid: item for item in session.items}
        self.tests = forked(lambda: {name: found for name in items if (found := self._trace(items[name]))}, 3600)
        whole = compile(Path(self.path).read_text(encoding="utf-8"), self.path, "exec")
        if forked(partial(self._meet, whole, [items[name] for name in self.tests]), 3600) != "passed":
            raise SystemExit(f"{self.path}: its tests do not pass without a fault")
        for key, fault in self.faults.items():
            reach = reaching(self.tests, fault)
            longest = LONGEST_S + 3 * sum(self.tests[name][0] for name in reach)
            tests = [items[name] for name in reach]
            met = forked(partial(self._meet, fault.code, tests), longest) if tests else "passed"
            self.done(key, None if met == "unknown" else met != "passed")
        return True

    def _trace(self, item) -> tuple[float, list[int]] | None:
        """Seconds that a test takes and the lines that it runs; None of one that does not pass."""
        lines, start = set(), time.perf_counter()

        def trace(frame, event, argument):
            if frame.f_code.co_filename != self.path:
                return None
            lines.add(frame.f_lineno)
            return trace

        sys.settrace(trace)
        threading.settrace(trace)
        passed = run_item(item)
        sys.settrace(None)
        threading.settrace(None)
        return (time.perf_counter() - start, sorted(lines)) if passed else None

    def _meet(self, code: CodeType, items: Sequence[Any]) -> str:
        changed = {place_of(one): one for one in codes(code)}
        try:
            for function in gc.get_objects():
                if type(function) is FunctionType and function.__code__.co_filename == self.path:
                    function.__code__ = changed[place_of(function.__code__)]
        except (KeyError, ValueError):  # a lambda that is not there any more, another closure
            return "unknown"
        return "passed" if all(map(run_item, items)) else "failed"


def reaching(tests: Mapping[str, tuple[float, Sequence[int]]], fault: Mutant) -> list[str]:
    """The tests that run the line of the fault, the fastest first."""
    names = [name for name, (_, lines) in tests.items() if fault.everywhere or fault.line in lines]
    return sorted(names, key=lambda name: tests[name][0])


def run_item(item: Any) -> bool:
    from _pytest.runner import runtestprotocol

    return all(report.passed for report in runtestprotocol(item, log=False, nextitem=None))


def codes(code: CodeType) -> Iterator[CodeType]:
    """All code objects within one."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from codes(constant)


def place_of(code: CodeType) -> tuple[object, ...]:
    """What a function and the same one with a fault have in common."""
    return code.co_qualname, code.co_firstlineno, min(at for *_, at, _ in code.co_positions() if at is not None)


def forked(work: Callable[[], Any], longest_s: float) -> Any:
    """What `work` returns in a forked process; None if it did not end in time or died."""
    with tempfile.TemporaryFile("w+") as answer:
        if (child := os.fork()) == 0:
            os.setsid()
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            try:
                json.dump(work(), answer)
                answer.flush()
            finally:
                os._exit(0)
        end = time.monotonic() + longest_s
        while not (done := os.waitpid(child, os.WNOHANG)[0]) and time.monotonic() < end:
            time.sleep(0.01)
        if not done:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        answer.seek(0)
        return json.loads(answer.read() or "null")


def run_tests(names: Sequence[str], *plugins: object) -> int:
    import hypothesis
    import pytest

    hypothesis.settings.register_profile(
        "mutate",
        deadline=None,
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    hypothesis.settings.load_profile("mutate")
    return int(
        pytest.main(
            ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", *REWRITE, *names], plugins=list(plugins)
        )
    )


def meet(path: Path, mutant: Mutant, tests: Sequence[str]) -> int:
    """pytest's exit code where the module at `path` has the fault."""
    get_code = importlib.machinery.SourceFileLoader.get_code

    def changed(loader, name):
        return mutant.code if loader.path == str(path) else get_code(loader, name)

    importlib.machinery.SourceFileLoader.get_code = changed
    return run_tests(tests)


def mutate(module: str, state: dict[str, bool], save: Callable[[], None]) -> dict[str, Any]:
    """Try all faults of a module that no test has noticed before.

    Args:
        module: path below the package.
        state: fault -> whether a test noticed it; added to.
        save: called after each fault.
    """
    path, known = SOURCE / module, EQUIVALENT.get(module, {})
    times: Counter[str] = Counter()
    faults: dict[str, Mutant] = {}
    for fault in mutants(path):
        times[fault.text] += 1
        faults[f"{module}: {fault.text} #{times[fault.text]}"] = fault
    open_ = {key: fault for key, fault in faults.items() if not state.get(key)}

    def session() -> dict[str, Any]:
        found: dict[str, bool | None] = {}

        def done(key: str, noticed: bool | None) -> None:
            found[key] = noticed
            if noticed is not None:
                state[key] = noticed
                save()

        plugin = Session(path, {key: fault for key, fault in open_.items() if not fault.everywhere}, done)
        run_tests(MODULES[module], plugin)
        return {"tests": plugin.tests, "found": found}

    said = forked(session, 24 * 3600)
    state |= {key: noticed for key, noticed in said["found"].items() if noticed is not None}
    for key, fault in open_.items():
        if said["found"].get(key) is None:
            reach = reaching(said["tests"], fault)
            longest = LONGEST_S + 3 * sum(said["tests"][name][0] for name in reach)
            state[key] = bool(reach) and forked(partial(meet, path, fault, reach), longest) != 0
            save()
    result: dict[str, Any] = {"mutants": len(faults), "noticed": 0, "equivalent": [], "survivors": []}
    for key, fault in faults.items():
        if state[key]:
            result["noticed"] += 1
        else:
            result["equivalent" if fault.text in known else "survivors"].append(fault.text)
            print(f"{'(equivalent) ' if fault.text in known else ''}{module}:{fault.line}: {fault.text}", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="as in MODULES; default: all, and the result is written")
    parser.add_argument("--state", type=Path, help="file to go on from: what a test noticed is not tried again")
    parser.add_argument("--write", action="store_true", help="write the result of the modules named, too")
    args = parser.parse_args()
    if unknown := [module for module in args.modules if module not in MODULES]:
        parser.error(f"{', '.join(unknown)}: no such module; expected of {', '.join(MODULES)}")
    chosen, file = args.modules, args.state and args.state.resolve()
    state = json.loads(file.read_text(encoding="utf-8")) if file and file.is_file() else {}

    def save() -> None:
        if file:
            file.write_text(json.dumps(state, indent=1), encoding="utf-8")

    os.chdir(ROOT)
    import hypothesis  # noqa: F401  heavy imports once, before the forks; nothing of ours, which the forks change
    import nibabel  # noqa: F401
    import pytest  # noqa: F401
    import scipy.spatial  # noqa: F401
    import torch

    torch.set_num_threads(1)
    results = {module: mutate(module, state, save) for module in chosen or MODULES}
    rows = [
        [module, one["mutants"], one["noticed"], len(one["equivalent"]), len(one["survivors"])]
        for module, one in results.items()
    ]
    rows.append(["all", *(sum(row[column] for row in rows) for column in range(1, 5))])
    from measuring import table, write_result

    lines = [table(["module", "faults", "noticed by a test", "of the same meaning", "survived"], rows)]
    for title, kind in (("Survived", "survivors"), ("Of the same meaning, and why", "equivalent")):
        lines += ["", f"## {title}", ""]
        for module, one in results.items():
            lines += [
                f"- `{module}`: `{text}`" + (f": {EQUIVALENT[module][text]}" if kind == "equivalent" else "")
                for text in one[kind]
            ]
    if chosen and not args.write:
        print("\n".join(lines))
    else:
        write_result("mutation", "Small faults put into the source", lines, results)


if __name__ == "__main__":
    main()

"""The scan beside those of other packages: what disagrees is not timed."""

import json
import sys
from types import SimpleNamespace

import pytest


def test_packages_that_are_installed_take_part_and_what_disagrees_is_named(
    run_benchmark, benchmark, monkeypatch, tmp_path
):
    module = benchmark("other_scans")
    for name, factor in (("right", 1), ("wrong", 1.01)):
        block = SimpleNamespace(selective_scan=lambda _, *inputs, factor=factor: factor * module.ours(*inputs))
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(Block=block))
    monkeypatch.setattr(module, "OTHERS", {name: (name, "Block") for name in ("right", "wrong", "absent_package")})
    monkeypatch.setattr(module, "version", lambda name: "1")
    page = run_benchmark("other_scans", "--size", 40, 16, 4, "--threads", 1, "--repeats", 1)
    assert "| right 1 | 1 |" in page and "| wrong" not in page and "absent_package" not in page
    assert "Not timed, because they disagree: wrong 1." in page
    values = json.loads(next((tmp_path / "results").glob("other_scans_*.json")).read_text())
    assert values["errors"]["wrong 1"] == pytest.approx(0.01, rel=1e-3) and values["errors"]["ours"] < 5e-6

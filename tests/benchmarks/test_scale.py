"""The page of what large jobs cost is what the script makes of the results."""

import pytest


def test_the_page_holds_what_the_results_give(benchmark):
    scale = benchmark("scale")
    page = scale.PAGE.read_text(encoding="utf-8")
    assert page.partition(scale.BEGIN)[2].partition(scale.END)[0].strip() == scale.tables()


def test_the_slowest_stage_sets_the_pace_until_the_storage_does(benchmark):
    work = benchmark("scale").Work(cases=100, stages={"reading": 2.0, "network": 0.5}, mib=1000 / 1.048576, start_s=10)
    assert work.pace_s == 2 and work.gb_per_s == pytest.approx(0.5)
    assert work.seconds(10) == 10 + 20 and work.seconds(8) == 10 + 26
    assert work.seconds(10, storage=2) == pytest.approx(10 + 50)

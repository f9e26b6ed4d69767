import json
import logging
import re

import pytest

from mamba_unet.monitoring import Counter, Gauge, Histogram, JsonLines, event, prometheus


def test_numbers_are_written_as_prometheus_reads_them():
    cases, seconds = Counter("cases_total", "Cases.", "outcome", ("done", "failed")), Histogram("s", "Time.", (1, 2.5))
    for value in (0.5, 1, 2, 40.25):
        seconds.add(value)
    cases.add("done")
    with pytest.raises(KeyError):
        cases.add("other")
    assert prometheus([Gauge("queue", "Waiting.", lambda: 3), cases, seconds]) == (
        "# HELP mamba_unet_queue Waiting.\n"
        "# TYPE mamba_unet_queue gauge\n"
        "mamba_unet_queue 3\n"
        "# HELP mamba_unet_cases_total Cases.\n"
        "# TYPE mamba_unet_cases_total counter\n"
        'mamba_unet_cases_total{outcome="done"} 1\n'
        'mamba_unet_cases_total{outcome="failed"} 0\n'
        "# HELP mamba_unet_s Time.\n"
        "# TYPE mamba_unet_s histogram\n"
        'mamba_unet_s_bucket{le="1"} 2\n'
        'mamba_unet_s_bucket{le="2.5"} 3\n'
        'mamba_unet_s_bucket{le="+Inf"} 4\n'
        "mamba_unet_s_sum 43.75\n"
        "mamba_unet_s_count 4\n"
    )


def test_an_event_is_a_line_and_of_other_records_only_the_place_is_told(caplog):
    log = logging.getLogger("somebody")
    caplog.set_level(logging.INFO, "somebody")
    event(log, "volume_done", job="3f2a", seconds=1.5)
    try:
        raise ValueError("Mueller^Anna.dcm is damaged")
    except ValueError:
        log.error("Mueller^Anna.dcm failed", exc_info=True)
    first, second = (json.loads(JsonLines().format(record)) for record in caplog.records)
    assert first.pop("time").endswith("+00:00")
    assert first == {"level": "info", "event": "volume_done", "job": "3f2a", "seconds": 1.5}
    assert caplog.messages[0] == "volume_done job=3f2a seconds=1.5"
    (where,) = second.pop("traceback")
    assert re.fullmatch(r"test_monitoring\.py:\d+ test_an_event_is_\w+", where)
    assert (second["level"], second["event"], second["error"]) == ("error", "log", "ValueError")
    assert "Mueller" not in json.dumps(second) and second["at"].startswith("test_monitoring.py:")

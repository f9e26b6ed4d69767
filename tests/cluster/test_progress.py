from mamba_unet.cluster import progress
from mamba_unet.cluster.progress import Progress


def test_where_no_terminal_is_a_line_a_minute_says_how_far_it_is_and_the_time_left(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Progress(1000, "B", shown=True)
    for now in (110.0, 160.0, 170.0, 220.0):
        shown.show(2.5 * (now - 100), "words")
    shown.close()
    assert capsys.readouterr().err == "words, about 5.7 minutes left\nwords, about 4.7 minutes left\n"


def test_nothing_is_shown_that_is_not_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0)
    shown = Progress(1000, "B", shown=False)
    shown.show(10, "words")
    shown.close()
    assert capsys.readouterr().err == ""

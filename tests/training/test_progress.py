from mamba_unet.training import progress as module
from mamba_unet.training.progress import Bar, Lines, default_progress


def test_a_file_gets_a_line_per_minute_and_per_validation(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    lines = default_progress()
    assert isinstance(lines, Lines)
    lines.start(100, 400)
    for step in range(101, 400):
        now[0] += 1
        lines.step(step, 0.5)
        if step == 250:
            lines.validated(step, 0.8, 0.9)
    lines.close()
    planned, *said = capsys.readouterr().err.splitlines()
    assert planned == "train: goes on behind iteration 100, 400 iterations"
    assert said[0] == "iteration 160 of 400: loss 0.5000, about 4.0 minutes left"
    assert said[2] == "iteration 250 of 400: validation Dice 0.8000, best 0.9000"
    assert len(said) == 5


def test_the_time_left_is_no_longer_than_the_training_may_take(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    lines = Lines()
    lines.start(0, 10000, 180)
    now[0] = 60
    lines.step(30, 0.5)
    assert capsys.readouterr().err.splitlines() == [
        "train: 10,000 iterations, or 3.0 minutes if they take longer",
        "iteration 30 of 10000: loss 0.5000, about 2.0 minutes left",
    ]


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True)
    bar = default_progress()
    assert isinstance(bar, Bar)
    bar.start(3, 5)
    bar.step(4, 0.25)
    bar.validated(4, 0.8, 0.9)
    bar.close()
    assert "4/5" in capsys.readouterr().err

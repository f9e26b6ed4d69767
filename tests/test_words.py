import pytest

from mamba_unet.words import counted, duration, some


@pytest.mark.parametrize(
    ("number", "word", "said"),
    [
        (0, "case", "0 cases"),
        (1, "case", "1 case"),
        (1204, "case", "1,204 cases"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
    ],
)
def test_one_is_not_many(number, word, said):
    assert counted(number, word) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "less than 1 s"), (12.4, "12 s"), (90, "1.5 minutes"), (7200, "2.0 hours")]
)
def test_a_duration_is_told_in_the_unit_that_fits(seconds, said):
    assert duration(seconds) == said


def test_of_many_names_some_are_told():
    assert some(["a", "b"]) == "a, b" and some([]) == ""
    assert some("abcdefg", 3) == "a, b, c and 4 more" and some("abcdefg", None) == "a, b, c, d, e, f, g"

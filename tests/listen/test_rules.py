import pytest

from mamba_unet.listen.rules import Rule, chosen

LIVER = {"Modality": "CT", "SeriesDescription": "Portal venous 3.0", "BodyPartExamined": "ABDOMEN "}


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        ([], True),
        ([["modality=ct"]], True),
        ([["modality=C"]], False),
        ([["modality=C."]], False),  # no pattern
        ([["body-part=abdomen"]], True),
        ([["description=^portal .*3"]], True),
        ([["description=3$"]], False),
        ([["modality=CT", "body-part=CHEST"]], False),
        ([["modality=MR"], ["modality=CT", "description=venous"]], True),
    ],
)
def test_all_conditions_of_one_group_choose_a_series(words, taken):
    assert chosen([[Rule.parse(word) for word in group] for group in words], LIVER) is taken


def test_an_attribute_that_is_absent_meets_no_condition():
    assert not chosen([[Rule.parse("body-part=ABDOMEN")]], {"Modality": "CT"})


@pytest.mark.parametrize("word", ["modality", "modality=", "patient=Doe", "description=("])
def test_what_is_no_condition_is_refused(word):
    with pytest.raises(ValueError, match=r"modality=CT|regular expression"):
        Rule.parse(word)

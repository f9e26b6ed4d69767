"""Which series are chosen, by what their headers say."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

KEYWORDS = {"modality": "Modality", "body-part": "BodyPartExamined", "description": "SeriesDescription"}


@dataclass(frozen=True)
class Rule:
    """A condition on one attribute: a description that the pattern is found in, anything else that is the word.

    Upper and lower case are the same.
    """

    keyword: str
    pattern: re.Pattern[str]

    @classmethod
    def parse(cls, word: str) -> "Rule":
        """Of `modality=CT`, `body-part=ABDOMEN` or `description=REGEX`.

        Raises:
            ValueError: none of these.
        """
        name, _, value = word.partition("=")
        if name not in KEYWORDS or not value:
            raise ValueError(f"expected modality=CT, body-part=ABDOMEN or description=REGEX, got {word!r}")
        try:
            pattern = re.compile(value if name == "description" else rf"\A{re.escape(value)}\Z", re.IGNORECASE)
        except re.error as error:
            raise ValueError(f"{word!r} is no regular expression ({error})") from error
        return cls(KEYWORDS[name], pattern)


def chosen(rules: Sequence[Sequence[Rule]], header: Mapping[str, str]) -> bool:
    """Whether all conditions of one of the groups hold; without any group, always.

    Args:
        rules: groups of conditions.
        header: keyword -> value; what is absent is empty.
    """
    return not rules or any(
        all(rule.pattern.search(header.get(rule.keyword, "").strip()) for rule in group) for group in rules
    )

"""The colours of classes, and of charts on light and dark pages."""

import colorsys
from dataclasses import dataclass

# The colours of Okabe and Ito (2008), told apart with any colour vision, in an order that sets neighbouring heart
# structures well apart; then four of Tol's for data sets with more than seven organs.
PALETTE = (
    "#56b4e9",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#f0e442",
    "#d55e00",
    "#0072b2",
    "#aa4499",
    "#882255",
    "#999933",
    "#44aa99",
)

GOLDEN = (5**0.5 - 1) / 2
LIGHTNESS = (0.4, 0.7, 0.55)


@dataclass(frozen=True)
class Theme:
    """Colours of a chart on a light or a dark page."""

    background: str
    text: str
    grid: str
    line: str
    accent: str


LIGHT = Theme("#ffffff", "#1f2430", "#d9dde5", "#0072b2", "#d55e00")
DARK = Theme("#171a21", "#e4e7ee", "#343a46", "#56b4e9", "#e69f00")


def class_color(index: int) -> str:
    """The colour of foreground class `index` (from 1), the same in every figure, no two of 254 alike; "#rrggbb"."""
    if index <= len(PALETTE):
        return PALETTE[index - 1]
    more = index - len(PALETTE)  # the golden ratio sets the hues of neighbours far apart
    rgb = colorsys.hls_to_rgb(more * GOLDEN % 1, LIGHTNESS[more % len(LIGHTNESS)], 0.65)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)

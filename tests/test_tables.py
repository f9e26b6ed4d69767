"""One table, four renderings."""

import pytest

from mamba_unet.tables import Html, Table, number

TABLE = Table(
    ["network", "Dice", "model"],
    [["a<b", "0.9 ± 0.1", "unet"], ["c", "0.85", "x"]],
    [["best", ""], ["second", ""]],
    left=(0, 2),
)


def test_terminal_columns_are_aligned_words_left_and_numbers_right():
    assert TABLE.text() == (
        "network       Dice  model\n"
        "a<b      0.9 ± 0.1  unet\n"
        "c             0.85  x\n"
    )  # fmt: skip
    assert TABLE.text(rule=True).splitlines()[1] == "-------  ---------  -----"


def test_markdown_can_be_read_as_text_too():
    assert TABLE.markdown() == (
        "| network |            Dice | model |\n"
        "|---------|----------------:|-------|\n"
        "| a<b     |   **0.9 ± 0.1** | unet  |\n"
        "| c       | <ins>0.85</ins> | x     |\n"
    )


def test_latex_escapes_what_latex_would_misread():
    table = Table(["a_b% {x} \\", "n"], [["<", "1 ± 2"]], [["best"]])
    assert table.latex() == (
        "\\begin{tabular}{lr}\n\\hline\n"
        "a\\_b\\% \\{x\\} \\textbackslash{} & n \\\\\n\\hline\n"
        "$<$ & \\textbf{1 $\\pm$ 2} \\\\\n\\hline\n"
        "\\end{tabular}\n"
    )


def test_a_bar_in_a_name_ends_no_cell_and_latex_takes_any_name():
    table = Table(["case", "n"], [["a|b", "1"]], [["best"]])
    assert table.markdown().splitlines()[2] == r"| a\|b | **1** |"
    assert r"T2\^{}*\textasciitilde{}w $>$ 5$|$x" in Table(["a"], [["T2^*~w > 5|x"]]).latex()


def test_html_is_escaped_unless_it_is_html_and_stacks_deviations():
    html = Table(["<t>", "x"], [[Html("<b>q</b>"), "0.9 ± 0.1"], ["a<b", "&"]], [["best"]]).html("summary")
    assert html.startswith("<div class='scroll summary' tabindex='0'><table>")
    assert "<th scope='col' class=word>&lt;t&gt;</th><th scope='col'>x</th>" in html
    assert "<th scope='row'><b>q</b></th><td><strong>0.9<small>± 0.1</small></strong></td>" in html
    assert "<th scope='row'>a&lt;b</th><td>&amp;</td>" in html
    assert "<td class=word>unet</td>" in TABLE.html() and "<td><u>0.85</u></td>" in TABLE.html()


def test_a_table_without_rows_or_marks_is_plain():
    assert Table(["network", "hours"], [["unet", "3"]]).markdown().splitlines()[2] == "| unet    |     3 |"
    assert Table(["a"], []).text() == "a\n"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "-"), (float("nan"), "-"), (float("inf"), "inf"), (0.125, "0.12"), (-1, "-1.00")]
)
def test_numbers_that_are_undefined_are_a_dash(value, text):
    assert number(value, 2) == text
    assert number(2.0, 1, signed=True) == "+2.0"

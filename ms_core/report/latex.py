"""The tables of main.md in LaTeX, with booktabs, for write-ups."""

import itertools
import re

LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
SIGNS = {"\\": r"\textbackslash{}", "↓": r"$\downarrow$", "↑": r"$\uparrow$", "–": "--"}
SIGNS |= {sign: rf"\{sign}" for sign in "&%$#_{}"}


def latex(markdown: str) -> str:
    """Each table of a page as a `table` with its nearest heading as caption; links become what they name."""
    lines, heading, parts = markdown.splitlines(), "", ["% needs \\usepackage{booktabs}"]
    for index, line in enumerate(lines):
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("|") and lines[index + 1 : index + 2] and lines[index + 1].startswith("| ---"):
            body = list(itertools.takewhile(lambda row: row.startswith("|"), lines[index + 2 :]))
            rows = [" & ".join(_cell(cell) for cell in row.strip("| ").split(" | ")) + r" \\" for row in (line, *body)]
            columns = "l" + "r" * line.count(" | ")
            parts += [
                r"\begin{table}",
                rf"\caption{{{_cell(heading)}}}",
                rf"\begin{{tabular}}{{{columns}}}",
                r"\toprule",
            ]
            parts += [rows[0], r"\midrule", *rows[1:], r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return "".join(SIGNS.get(sign, sign) for sign in LINK.sub(r"\1", text).replace("`", "").strip())

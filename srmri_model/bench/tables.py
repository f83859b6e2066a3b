"""The tables as text: CSV of every cell, Markdown, LaTeX."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from srmri_model.bench.cells import Cell
from srmri_model.bench.plan import TABLES, Figures
from srmri_model.bench.summary import QUALITIES, Quality, Row, Spread, best_of

COLUMNS = (
    "method", "subject", "slice", "mask", "registered", "psnr", "ssim", "lpips", "chi2", "nfe",
    "nbe", "seconds", "seed",
)  # fmt: skip
"""Of ``results.csv``."""

DIGITS: Mapping[Quality, int] = {"psnr": 2, "ssim": 3, "lpips": 3}
WAYS = (
    ("whole frame", "frame", "no"),
    ("registered", "foreground", "yes"),
    ("one gain", "foreground", "no+gain"),
    ("registered, one gain", "foreground", "yes+gain"),
)
"""Further ways to judge: name, mask, registration."""


def results_csv(cells: Iterable[Cell]) -> str:
    """Write every figure of every cell.

    Parameters
    ----------
    cells : iterable of Cell
        In the order of the file.

    Returns
    -------
    str
        A table with `COLUMNS`; empty where a figure can not be computed.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in cells:
        for score in cell.scores:
            figures = (score.psnr, score.ssim, score.lpips, cell.chi2)
            writer.writerow(
                (
                    cell.method, cell.subject, cell.slice_index, score.mask, score.registered,
                    *("" if math.isnan(value) else f"{value:.6g}" for value in figures),
                    cell.nfe, cell.nbe, f"{cell.seconds:.4g}", cell.seed,
                )
            )  # fmt: skip
    return buffer.getvalue()


def spread_text(spread: Spread, quality: Quality) -> str:
    """Show mean ± standard deviation over subjects.

    Parameters
    ----------
    spread : Spread
        The figure.
    quality : str
        Which measure it is of.

    Returns
    -------
    str
        A dash where there is none.

    Examples
    --------
    >>> spread_text(Spread(24.748, 0.312, {}), "psnr")
    '24.75 ± 0.31'
    >>> spread_text(Spread(0.1, math.nan, {}), "lpips")
    '0.100'
    """
    digits = DIGITS[quality]
    if math.isnan(spread.mean):
        return "–"
    if math.isinf(spread.mean):
        return "∞"
    text = f"{spread.mean:.{digits}f}"
    return text if math.isnan(spread.sd) else f"{text} ± {spread.sd:.{digits}f}"


def difference_text(row: Row, quality: Quality) -> str:
    """Show by how much a method differs from its best rival.

    Parameters
    ----------
    row : Row
        The method.
    quality : str
        Which measure.

    Returns
    -------
    str
        Difference and interval; a dash where there is none.
    """
    found = row.differences.get(quality)
    if found is None or not math.isfinite(found.mean):
        return "–"
    digits = DIGITS[quality]
    text = f"{found.mean:+.{digits}f}"
    if not math.isnan(found.low):
        text += f" [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    return text.replace("-", "−")


def number(value: float, digits: int = 0) -> str:
    """Show a number.

    Parameters
    ----------
    value : float
        NaN for none.
    digits : int
        Behind the point.

    Returns
    -------
    str
        A dash for none; scientific for huge ones.

    Examples
    --------
    >>> number(1.234, 2), number(float("nan")), number(1234567.0)
    ('1.23', '–', '1.2e+06')
    """
    if math.isnan(value):
        return "–"
    return f"{value:.1e}" if abs(value) >= 1e5 else f"{value:.{digits}f}"


def seconds_text(value: float) -> str:
    """Show a time in seconds with two significant digits or more.

    Parameters
    ----------
    value : float
        Seconds.

    Returns
    -------
    str
        A dash for NaN.

    Examples
    --------
    >>> seconds_text(0.00123), seconds_text(1.26), seconds_text(123.4)
    ('0.0012', '1.3', '123')
    """
    if math.isnan(value):
        return "–"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def cost_text(row: Row) -> str:
    """Show evaluations of the score model, forward + backward.

    Parameters
    ----------
    row : Row
        The method.

    Returns
    -------
    str
        A dash for methods without score model.
    """
    return f"{row.nfe:.0f} + {row.nbe:.0f}" if row.nfe > 0 else "–"


def paper_text(figures: Figures | None) -> str:
    """Show the paper's own figures.

    Parameters
    ----------
    figures : Figures or None
        Of a method.

    Returns
    -------
    str
        PSNR / SSIM / LPIPS / seconds; a dash where the paper has none.

    Examples
    --------
    >>> paper_text(Figures(24.75, 0.61, 0.1, 873)), paper_text(Figures(22.49, 0.64, 0.55))
    ('24.75 / .61 / .10 / 873 s', '22.49 / .64 / .55')
    """
    if figures is None:
        return "–"
    text = f"{figures.psnr:.2f} / {figures.ssim:.2f} / {figures.lpips:.2f}".replace(" 0.", " .")
    return text if figures.seconds is None else f"{text} / {figures.seconds:.0f} s"


def tables_markdown(
    rows: Mapping[str, Sequence[Row]], conditions: Sequence[tuple[str, str]]
) -> str:
    """Write all tables and what they stand on.

    Parameters
    ----------
    rows : mapping of str to sequence of Row
        By table.
    conditions : sequence of (str, str)
        Name and value.

    Returns
    -------
    str
        Markdown.
    """
    parts = ["# The paper's tables on this data", "", "## Conditions", ""]
    parts += _markdown_table(("", ""), [[name, value] for name, value in conditions])
    for key, found in rows.items():
        table = TABLES[key]
        parts += ["", f"## Table {key}: {table.title}", "", table.note, ""]
        header = (
            "method", "PSNR, dB", "SSIM", "LPIPS", "χ²/m", "forward + backward", "s per slice",
            "peak MB", "PSNR − best rival [95 %]", "LPIPS − best rival [95 %]",
            "the paper's own data: PSNR / SSIM / LPIPS / time",
        )  # fmt: skip
        parts += _markdown_table(header, [_markdown_row(row, found) for row in found])
        parts += ["", *_ways(found)]
        parts += [f"- {row.label}: **{row.failure}**" for row in found if row.failure]
    parts += ["", LEGEND]
    return "\n".join(parts) + "\n"


LEGEND = (
    "PSNR, SSIM and LPIPS in the foreground, as a method gives its image, unless said otherwise: "
    "mean ± standard deviation over subjects of the mean over slices; the best, the ceiling apart, "
    "is bold. χ²/m in the foreground of LR without its outermost voxel; 1 is expected of a draw "
    "from the posterior, less of a mean. Intervals are a paired bootstrap over subjects. The "
    "paper's figures are of other data and other hardware: context, not a comparison."
)


def _markdown_row(row: Row, rows: Sequence[Row]) -> list[str]:
    cells = [row.label]
    for quality in QUALITIES:
        text, best = spread_text(row.of(quality), quality), best_of(rows, quality)
        cells.append(f"**{text}**" if best is not None and best.name == row.name else text)
    return [
        *cells,
        number(row.chi2, 2),
        cost_text(row),
        seconds_text(row.seconds),
        number(row.peak_mb),
        difference_text(row, "psnr"),
        difference_text(row, "lpips"),
        paper_text(row.paper),
    ]


def _ways(rows: Sequence[Row]) -> list[str]:
    header = ["method", *(name for name, _, _ in WAYS)]
    body = [
        [
            row.label,
            *(
                " / ".join(
                    spread_text(row.of(quality, mask, registered), quality) for quality in QUALITIES
                )
                for _, mask, registered in WAYS
            ),
        ]
        for row in rows
    ]
    return ["PSNR / SSIM / LPIPS judged in other ways:", "", *_markdown_table(header, body)]


def _markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(header), "|" + "---|" * len(header), *(line(cells) for cells in body)]


def tables_latex(rows: Mapping[str, Sequence[Row]]) -> str:
    """Write all tables for a paper; they need the package booktabs.

    Parameters
    ----------
    rows : mapping of str to sequence of Row
        By table.

    Returns
    -------
    str
        LaTeX, one table environment each.
    """
    parts = ["% Needs \\usepackage{booktabs}."]
    for key, found in rows.items():
        table = TABLES[key]
        parts += [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{_latex(table.title)}. {_latex(table.note)}}}",
            f"\\label{{tab:srmri-{key}}}",
            "\\begin{tabular}{lrrrrrr}",
            "\\toprule",
            "Method & PSNR $\\uparrow$ & SSIM $\\uparrow$ & LPIPS $\\downarrow$ & $\\chi^2/m$ "
            "& evaluations & time (s) \\\\",
            "\\midrule",
            *(_latex_row(row, found) for row in found),
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        ]
    return "\n".join(parts)


def _latex_row(row: Row, rows: Sequence[Row]) -> str:
    cells = [_latex(row.label)]
    for quality in QUALITIES:
        text, best = spread_text(row.of(quality), quality), best_of(rows, quality)
        text = _latex(text)
        if best is not None and best.name == row.name:
            text = f"\\textbf{{{text}}}"
        cells.append(text)
    cells += [
        _latex(number(row.chi2, 2)),
        _latex(cost_text(row)),
        _latex(seconds_text(row.seconds)),
    ]
    return " & ".join(cells) + " \\\\"


def _latex(text: str) -> str:
    escaped = re.sub(r"([&%$#_{}])", r"\\\1", text)
    for found, wanted in (
        ("±", "$\\pm$"),
        ("∞", "$\\infty$"),
        ("–", "--"),
        ("−", "$-$"),
        ("×", "$\\times$"),
    ):
        escaped = escaped.replace(found, wanted)
    return escaped.replace("χ²", "$\\chi^2$")

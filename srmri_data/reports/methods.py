"""A methods paragraph to paste, with the figures of the run and the works it stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from srmri_data.reports.series import PairSeries, ReportInputs

_WORKS = {
    "simpleitk": "B. C. Lowekamp, D. T. Chen, L. Ibáñez, D. Blezek. The design of SimpleITK. "
    "Front. Neuroinform. 7:45 (2013).",
    "mattes": "D. Mattes, D. R. Haynor, H. Vesselle, T. K. Lewellen, W. Eubank. PET-CT image "
    "registration in the chest using free-form deformations. IEEE Trans. Med. Imaging 22:120-128 "
    "(2003).",
    "pca": "F. Pedregosa et al. Scikit-learn: machine learning in Python. J. Mach. Learn. Res. "
    "12:2825-2830 (2011).",
    "lpips": "R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang. The unreasonable "
    "effectiveness of deep features as a perceptual metric. CVPR, 586-595 (2018).",
    "ssim": "Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli. Image quality assessment: from "
    "error visibility to structural similarity. IEEE Trans. Image Process. 13:600-612 (2004).",
    "ac1": "K. L. Gwet. Computing inter-rater reliability and its variance in the presence of "
    "high agreement. Br. J. Math. Stat. Psychol. 61:29-48 (2008).",
    "keys": "R. Keys. Cubic convolution interpolation for digital image processing. IEEE Trans. "
    "Acoust. Speech Signal Process. 29:1153-1160 (1981).",
}


class Paragraph(NamedTuple):
    """What to paste.

    Attributes
    ----------
    text : str
        One paragraph; works are cited as [1], [2] ….
    references : list of str
        The works, in that order.
    """

    text: str
    references: list[str]


class _Citations:
    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> str:
        if name not in self.names:
            self.names.append(name)
        return f"[{self.names.index(name) + 1}]"


def methods(inputs: ReportInputs, series: PairSeries) -> Paragraph:
    """Describe how the pairs of a run were made.

    Parameters
    ----------
    inputs : ReportInputs
        The run; what its summary does not say is left out.
    series : PairSeries
        The same run as arrays.

    Returns
    -------
    Paragraph
        Text and references.
    """
    cite, summary = _Citations(), inputs.summary
    sentences = [_scans(summary, series)]
    if series.by_registration:
        sentences += _geometry(summary, series, cite)
    else:
        sentences += _paper(series, cite)
    sentences.append(_outcome(summary, series))
    versions = summary.get("versions") or {}
    used = [
        f"{name} {versions[name]}"
        for name in ("srmri", "python", "numpy", "SimpleITK", "scikit-learn", "torch", "lpips")
        if name in versions and (name != "SimpleITK" or series.by_registration)
    ]
    if used:
        sentences.append(f"Software: {_listed(used)}.")
    return Paragraph(" ".join(sentences), [_WORKS[name] for name in cite.names])


def _scans(summary: Mapping[str, Any], series: PairSeries) -> str:
    def scan(role: str) -> str:
        spacing = (summary.get(role) or {}).get("spacing_mm")
        if not isinstance(spacing, list | tuple):
            return ""
        return f" ({' × '.join(f'{1000 * float(value):g}' for value in spacing)} µm)"

    plane = str(summary.get("plane") or "")
    compared = f"{summary['n_hr']} " if summary.get("n_hr") else ""
    text = (
        f"{len(series.position)} {plane + ' ' if plane else ''}slices of the low-resolution scan"
        f"{scan('lr')} were paired with the {compared}slices of the high-resolution scan of the "
        f"same animal{scan('hr')}"
    )
    if isinstance(summary.get("trim"), str):
        text += f", {_trim(summary['trim'])}"
    return text + "."


def _trim(trim: str) -> str:
    return (
        "without trimming"
        if float(trim.removesuffix("mm")) == 0
        else (
            f"after leaving out {trim.replace('mm', ' mm')} at each end"
            if trim.endswith("mm")
            else f"after leaving out {trim} slices at each end"
        )
    )


def _geometry(summary: Mapping[str, Any], series: PairSeries, cite: _Citations) -> list[str]:
    registration = summary.get("registration") or {}
    config = summary.get("config") or {}
    sentences = []
    if series.registered:
        metric = (
            f"Mattes mutual information {cite('mattes')} at the coarse levels and correlation at "
            "the last"
            if registration.get("metric") == "mutual-information"
            else "correlation"
        )
        sentences.append(
            f"The two scans were registered rigidly in three dimensions with SimpleITK "
            f"{cite('simpleitk')} from coarse to fine, maximising {metric}, from "
            f"{registration.get('n_starts')} starts"
            + (
                f" within {config['window_mm']:g} mm of the scanner's coordinates"
                if config.get("window_mm")
                else ""
            )
            + (f" (seed {config['seed']})" if "seed" in config else "")
            + "."
        )
        facts = []
        if registration.get("shift_um"):
            shift = float(np.linalg.norm(registration["shift_um"]))
            angle = max(map(abs, registration.get("angles_deg") or [0.0]))
            facts.append(f"The animal had moved by {shift:.0f} µm and turned by {angle:.1f}°")
        if registration.get("score") is not None:
            facts.append(f"the locally normalised images correlated by {registration['score']:.2f}")
        if registration.get("n_agreeing") is not None:
            facts.append(
                f"{registration['n_agreeing']} of the starts ended within "
                f"{registration.get('spread_um', 0):.0f} µm of each other"
            )
        if facts:
            sentences.append("; ".join(facts) + ".")
        if registration.get("is_scaled"):
            stretch = ", ".join(f"{100 * (v - 1):+.1f} %" for v in registration["scale"])
            sentences.append(f"A difference in scale ({stretch}) was followed.")
    else:
        sentences.append("The two scans were related by the scanner's coordinates alone.")
    sentences.append(
        "The high-resolution scan was resliced parallel to the low-resolution planes (tricubic "
        f"interpolation {cite('keys')}) and brought to their resolution and slice thickness. "
        f"The position of each slice was taken from this geometry and checked by "
        f"{_voters(series, cite)}, each of which named the most similar plane."
    )
    skipped = [str(name) for name in config.get("skip") or () if name != "register"]
    if skipped:
        sentences.append(f"Stages left out: {_listed(skipped)}.")
    unit = "slice" if series.tolerance == 1 else "slices"
    sentences.append(
        f"A pair was accepted when most of them named a plane within {series.tolerance:g} "
        f"high-resolution {unit} ({series.tolerance * series.high_res_um:g} µm) of it"
        + (
            " and a monotone path through all slices passed within that or half a "
            "low-resolution slice"
            if "path" not in (config.get("skip") or ())
            else ""
        )
        + "; all others were left to human review."
    )
    return sentences


def _paper(series: PairSeries, cite: _Citations) -> list[str]:
    count = len(series.votes)
    rule = (
        "The slice with the most votes was taken; slices without one were left to human review."
        if count > 1
        else "Its choice was taken."
    )
    return [
        "High-resolution slices were brought to the pixels of the low-resolution slices by "
        f"antialiased cubic interpolation {cite('keys')}. For each low-resolution slice the most "
        f"similar high-resolution slice was found by {_voters(series, cite)}. {rule}"
    ]


def _voters(series: PairSeries, cite: _Citations) -> str:
    ways = {
        "pca": "distance of principal components",
        "lpips": "LPIPS with AlexNet",
        "ssim": "structural similarity",
    }
    return _listed([f"{ways[name]} {cite(name)}" for name in series.votes]) or "no voter"


def _outcome(summary: Mapping[str, Any], series: PairSeries) -> str:
    n, waiting = len(series.position), int((series.review & ~series.empty).sum())
    empty = int(series.empty.sum())
    text = f"Of {n} slices {int(series.paired.sum())} were accepted and {waiting} left to review"
    if empty:
        text += f"; {empty} showed hardly any signal"
    reviewers = (summary.get("review") or {}).get("reviewers") or []
    if reviewers:
        plural = "" if len(reviewers) == 1 else "s"
        text += f"; {len(reviewers)} reviewer{plural} answered, blind to each other"
    if summary.get("mae_um") is not None:
        text += (
            f". Against the known truth the mean error was {summary['mae_um']:.1f} µm, and "
            f"{summary.get('wrongly_accepted', 0)} accepted pairs were more than one "
            "high-resolution slice off"
        )
    return text + "."


def _listed(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]

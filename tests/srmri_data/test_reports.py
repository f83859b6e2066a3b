"""The pairing report: what it says, what it never does, and how it looks with little data."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from srmri_data.consensus import Evidence, geometry_vote, vote_table
from srmri_data.matched import PlaneGeometry
from srmri_data.reports import (
    PlaneView,
    ReportInputs,
    partner_images,
    plane_views,
    render_page,
    write_report,
)
from srmri_data.reports.figures import PALETTE, run_charts, svg
from srmri_data.reports.methods import methods
from srmri_data.reports.mosaic import png_images, tile_groups
from srmri_data.reports.planes import checkerboard, like
from srmri_data.reports.series import (
    agreement,
    agreement_figures,
    distance_maps,
    error_table,
    pair_series,
    pairwise_agreement,
    score_maps,
    voter_bias,
)
from srmri_data.reports.what_if import what_if

ALL_VOTERS = ("pca", "lpips", "ssim")


def brain_slice(position: float, rows: int, cols: int) -> np.ndarray:
    """Draw a smooth brain-like slice; `position` runs from 0 to 1 along the brain."""
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : cols * 1j]
    size = 0.35 + 0.55 * np.sin(np.pi * np.clip(position, 0.02, 0.98)) ** 0.7
    y, x = y / size * 0.9, x / size * 0.75
    radius = np.hypot(x, y * 1.25 + 0.1 * x**2)
    edge = 1 / (1 + np.exp((radius - 0.85) * 30))
    cortex = np.exp(-(((radius - 0.7) / 0.09) ** 2))
    angle = np.arctan2(y, x)
    folds = np.sin(7 * angle + 9 * position) * np.cos(11 * radius + 14 * position)
    texture = np.sin(26 * x + 40 * position) * np.sin(31 * y - 17 * position)
    beside = (np.abs(x + 0.03) - 0.16 - 0.2 * position) / 0.06
    ventricle = np.exp(-(beside**2) - (y / 0.22) ** 2)
    vessel = np.exp(-(((x - 0.4 + position / 2) ** 2 + (y + 0.2) ** 2) / 0.0012))
    image = 0.5 + 0.22 * cortex + 0.08 * folds + 0.05 * texture + 0.35 * ventricle - 0.4 * vessel
    return (image * edge).astype(np.float32)


def make_inputs(
    n: int = 24,
    *,
    trim: int = 2,
    shape: tuple[int, int] = (32, 45),
    voters: tuple[str, ...] = ALL_VOTERS,
    truth: bool = True,
    all_review: bool = False,
    no_partner: bool = False,
    empty_waits: bool = False,
    offset: float = 1.2,
    n_empty: int = 0,
    seed: int = 3,
    **summary: Any,
) -> ReportInputs:
    """Make a plausible run: smooth motion, noisy votes, a few blunders and disagreements."""
    generator = np.random.default_rng(seed)
    low = np.arange(trim, trim + n)
    high = np.arange(trim, 2 * (n + 2 * trim) - trim)
    true = 2 * low + 0.5 + offset + 0.6 * np.sin(low / 17)
    tables, votes = [], {}
    for k, voter in enumerate(voters):
        width = (4.0, 6.0, 9.0)[k]
        wander = true + generator.normal(0, (0.35, 0.5, 0.8)[k], n)
        lost = generator.random(n) < (0.02, 0.03, 0.07)[k]
        wander[lost] += generator.normal(0, 25, int(lost.sum()))
        away = np.abs(high[None, :] - wander[:, None])
        distance = 1 - np.exp(-away / width) + 0.02 * generator.random((n, high.size))
        votes[voter] = high[np.argmin(distance, axis=1)]
        tables.append(
            pd.DataFrame(
                {
                    "lr_slice": np.repeat(low, high.size),
                    "hr_slice": np.tile(high, n),
                    "voter": voter,
                    "distance": distance.ravel().astype(np.float32),
                    "rank": np.argsort(np.argsort(distance, axis=1), axis=1).ravel(),
                }
            )
        )
    stack = np.stack(list(votes.values()))
    decided = np.median(stack, axis=0)
    n_votes = np.array([np.unique(column, return_counts=True)[1].max() for column in stack.T])
    spread = np.ptp(stack, axis=0)
    empty = np.arange(n) >= n - n_empty
    auto = (n_votes >= min(2, len(voters))) & (spread <= 4) & ~empty & (not all_review)
    margin = np.clip(generator.gamma(3, 0.05, n) / (1 + 0.3 * spread), 0, 1)
    hr_slice = pd.array(np.where(empty, 0, np.rint(decided)).astype(int), dtype="Int64")
    hr_slice[empty | no_partner] = pd.NA
    pairs = pd.DataFrame(
        {
            "lr_slice": low,
            "hr_slice": hr_slice,
            "hr_position": np.where(empty, np.nan, decided),
            "ref_row": shape[0] / 2,
            "ref_col": shape[1] / 2,
            "offset_um": np.where(empty, np.nan, (decided - (2 * low + 0.5)) * 25.0),
            **{f"vote_{v}": pd.array(votes[v], dtype="Int64") for v in voters},
            "n_votes": n_votes,
            "spread": spread,
            "margin": margin,
            "confidence": np.clip(margin * 3, 0, 1),
            "method": "paper",
            "status": np.where(auto | (empty & (not empty_waits)), "auto", "review"),
            "reason": np.where(
                empty, "near-empty slice", np.where(auto, "", "the voters differ by more than 1")
            ),
            "empty": empty,
        }
    )
    for voter in set(ALL_VOTERS) - set(voters):
        pairs[f"vote_{voter}"] = pd.array([pd.NA] * n, dtype="Int64")
    document: dict[str, Any] = {
        "run": "m07_50um-25um",
        "method": "paper",
        "plane": "acquired",
        "trim": {"lr": trim, "hr": trim},
        "voters": list(voters),
        "n_lr": n,
        "n_hr": int(high.size),
        "n_pairs": int(auto.sum()),
        "unanimous": int((n_votes == len(voters))[~empty].sum()),
        "within_1": int((spread <= 1)[~empty].sum()),
        "queued": int((~auto & ~empty).sum()),
        "seconds": 134.2,
        "voxel_ratio": [2.0, 2.0, 2.0],
        "geometry": {"slope": 2.0, "offset": 0.5, "voted_offset": 0.5 + offset},
        "lr": {
            "path": "/scans/m07_20240611/12/pdata/1",
            "shape": [shape[1], shape[0], n + 2 * trim],
            "spacing_mm": [0.05, 0.05, 0.05],
            "orientation": "RAS",
            "slices_total": n + 2 * trim,
            "slice_spacing_um": 50.0,
            "window": {"slices": [trim, n + trim], "rows": [0, shape[0]], "cols": [0, shape[1]]},
            "to_voxel": np.eye(4).tolist(),
        },
        "hr": {
            "path": "/scans/m07_20240611/9/pdata/1",
            "shape": [2 * shape[1], 2 * shape[0], 2 * (n + 2 * trim)],
            "spacing_mm": [0.025, 0.025, 0.025],
            "orientation": "RAS",
            "slices_total": 2 * (n + 2 * trim),
        },
        "checks": [
            {"name": "Voxel ratio", "level": "ok", "text": "2 × 2 × 2, as expected."},
            {"name": "Orientation", "level": "ok", "text": "Both RAS; planes parallel."},
            {
                "name": "Offset",
                "level": "warning",
                "text": "The votes ask for 30 µm more than the headers say: the animal may "
                "have moved between the scans.",
            },
            {"name": "Contrast", "level": "ok", "text": "Correlation of the histograms 0.97."},
        ],
        "versions": {"srmri": "0.1.0", "numpy": "2.4.6", "torch": "2.9.0", "python": "3.11.2"},
        "command": "srmri pair --lr /scans/m07/12 --hr /scans/m07/9 --method paper",
    }
    if truth:
        error = np.where(empty, np.nan, decided - true)
        pairs["truth_position"], pairs["error_slices"] = true, error
        known = np.abs(error[~empty])
        document |= {
            "exact": float(np.mean(known <= 0.5)),
            "mae_slices": float(known.mean()),
            "mae_um": float(known.mean() * 25),
            "p95_slices": float(np.percentile(known, 95)),
            "blunders": int((known > 3).sum()),
            "wrongly_accepted": int((auto & (np.abs(error) > 1)).sum()),
        }
    total = 2 * (n + 2 * trim)
    noise = generator.normal(0, 0.03, (n, *shape)).astype(np.float32)
    low_res = np.stack([brain_slice(t / total, *shape) for t in true]) + noise

    def partner(row: int) -> tuple[np.ndarray, np.ndarray]:
        number = int(pairs["hr_slice"][row])
        image = brain_slice(number / total, 2 * shape[0], 2 * shape[1])
        grain = np.random.default_rng(number).normal(0, 0.02, image.shape)
        sharp = np.clip(image + grain, 0, 1).astype(np.float32)
        return sharp, sharp.reshape(shape[0], 2, shape[1], 2).mean(axis=(1, 3))

    return ReportInputs(
        summary=document | summary,
        pairs=pairs,
        votes=pd.concat(tables, ignore_index=True),
        low_res=np.clip(low_res, 0, 1).astype(np.float32),
        partner=partner,
        slice_spacing_um=(50.0, 25.0),
        pixel_aspect=1.0,
    )


class Page(HTMLParser):
    """What a browser would make of a page: elements, ids, links, nesting."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def attributes(self, name: str) -> list[str]:
        return [
            value or "" for _, attrs in self.elements for key, value in attrs.items() if key == name
        ]


def assert_self_contained(text: str) -> Page:
    """Check that a page is well formed and asks for nothing outside itself."""
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {
        t for t, _ in page.elements
    }
    references = page.attributes("src") + page.attributes("href") + page.attributes("srcset")
    assert all(reference.startswith(("data:image/png;base64,", "#")) for reference in references)
    assert not [key for _, attrs in page.elements for key in attrs if key.startswith("on")]
    assert not re.search(r"url\((?![\"']?#)|@import", text)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    targets = {reference[1:] for reference in references if reference.startswith("#")}
    named = {i for name in ("aria-labelledby",) for i in page.attributes(name)}
    assert targets | named <= set(ids)
    policies = [a["content"] for t, a in page.elements if t == "meta" and "http-equiv" in a]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    return page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportInputs]:
    """One written report with everything a run can have."""
    folder = tmp_path_factory.mktemp("run")
    inputs = make_inputs(n=40, n_empty=3)
    assert write_report(folder, inputs) == folder / "index.html"
    return folder, inputs


def test_every_figure_is_written_beside_the_page(run: tuple[Path, ReportInputs]) -> None:
    from PIL import Image

    folder, _ = run
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    charts = ("correspondence", "agreement", "confidence", "margins", "distances", "errors")
    mosaics = ("mosaic_random", "mosaic_worst", "mosaic_disagreeing")
    assert names == {"index.html", *(f"figures/{name}.png" for name in charts + mosaics)}
    for name in names - {"index.html"}:
        with Image.open(folder / name) as picture:
            corner = picture.convert("RGB").getpixel((1, 1))
            assert corner == (255, 255, 255), name
            assert min(picture.size) > 200


def test_page_needs_nothing_else_and_is_well_formed(run: tuple[Path, ReportInputs]) -> None:
    text = (run[0] / "index.html").read_text(encoding="utf-8")
    page = assert_self_contained(text)
    assert "http:" not in text
    assert "https:" not in text
    images = [attrs for tag, attrs in page.elements if tag == "img"]
    assert len(images) >= 24
    assert all(attrs.get("alt") for attrs in images)
    assert all("scope" in attrs for tag, attrs in page.elements if tag == "th")
    assert page.attributes("lang") == ["en"]


@pytest.mark.parametrize(
    "breach",
    [
        "<script>1</script>",
        '<img src="https://x.org/a.png">',
        "<p onclick='a()'></p>",
        "<b>",
        "<i id='main'></i>",
    ],
)
def test_the_check_of_the_page_trips(run: tuple[Path, ReportInputs], breach: str) -> None:
    text = (run[0] / "index.html").read_text(encoding="utf-8")
    with pytest.raises(AssertionError):
        assert_self_contained(text.replace("<main", f"{breach}<main", 1))


def test_page_says_what_a_reader_decides_by(run: tuple[Path, ReportInputs]) -> None:
    folder, inputs = run
    page = Page((folder / "index.html").read_text(encoding="utf-8"))
    waiting = int((inputs.pairs["status"] == "review").sum())
    assert waiting > 1
    assert f"{40 - 3 - waiting} of 40 slices paired, {waiting} wait for review" in page.text
    assert "3 left out, near-empty" in page.text
    assert "srmri review m07_50um-25um" in page.text
    assert "1 of 4 needs your attention" in page.text
    assert "How often the vote is wrong" in page.text
    for word in (
        "PCA",
        "LPIPS",
        "SSIM",
        "0.025 × 0.025 × 0.025 mm",
        "2 · LR slice + 0.5",
        "slices 2–41, rows 0–31",
    ):
        assert word in page.text, word
    # Warnings come before what is in order.
    assert page.text.index("the animal may have moved") < page.text.index("planes parallel")


def test_colours_follow_the_reader(run: tuple[Path, ReportInputs]) -> None:
    text = (run[0] / "index.html").read_text(encoding="utf-8")
    dark = text[text.index("prefers-color-scheme: dark") :]
    for name, colour in PALETTE.items():
        assert f"--{name}: {colour.light};" in text
        assert f"--{name}: {colour.dark};" in dark
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.S))
    assert "var(--lpips)" in drawings
    # Only the colour scale of the distance maps, beside both page colours, is fixed.
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawings)) <= {"#ffb000"}


def linear_rgb(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    return float(linear_rgb(colour) @ (0.2126, 0.7152, 0.0722))


def contrast(first: str, second: str) -> float:
    """WCAG 2.2 contrast ratio."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


# Linear RGB as seen with a colour vision deficiency, severity 1.0: Machado, Oliveira and
# Fernandes, IEEE TVCG 15(6), 2009, table of the accompanying page.
VISION = {
    "normal": np.eye(3),
    "protan": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deutan": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritan": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def seen(colour: str, vision: str) -> np.ndarray:
    """CIELAB coordinates of a colour as it looks with a kind of vision."""
    from skimage.color import rgb2lab

    linear = np.clip(VISION[vision] @ linear_rgb(colour), 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(srgb[None, None])[0, 0]


@pytest.mark.parametrize("vision", list(VISION))
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_voters_stay_apart_for_every_kind_of_vision(mode: str, vision: str) -> None:
    colours = [seen(getattr(PALETTE[name], mode), vision) for name in ALL_VOTERS]
    for first, second in combinations(colours, 2):
        assert np.linalg.norm(first - second) > 25
    red, green = seen("#c06040", "deutan"), seen("#8a7a40", "deutan")
    assert np.linalg.norm(red - green) < 25


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_colours_have_enough_contrast(mode: str) -> None:
    paper = getattr(PALETTE["paper"], mode)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for name in ("ink", "muted", "accept", "review"):
        assert contrast(getattr(PALETTE[name], mode), paper) >= 4.5, name
    for name in ("pca", "lpips", "ssim", "truth"):
        assert contrast(getattr(PALETTE[name], mode), paper) >= 3, name


def test_same_run_gives_the_same_bytes(run: tuple[Path, ReportInputs], tmp_path: Path) -> None:
    folder, _ = run
    write_report(tmp_path, make_inputs(n=40, n_empty=3))
    files = [path.relative_to(folder) for path in folder.rglob("*.*")]
    assert len(files) == 10
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes(), file


@pytest.mark.parametrize(
    ("options", "present", "absent"),
    [
        (
            {"n": 8, "truth": False, "voters": ("pca", "ssim"), "checks": []},
            ["How far the voters agree", "voters PCA, SSIM"],
            ["LPIPS", "How often the vote is wrong", "needs your attention", "Exact"],
        ),
        (
            {"n": 8, "truth": False, "n_empty": 2, "empty_waits": True, "voters": ("ssim",)},
            ["6 of 8 slices paired, 2 wait for review", "2 for review, 2 of them near-empty"],
            ["left out"],
        ),
        (
            {"n": 8, "truth": False, "voters": ("ssim",)},
            ["How clear the choices are", "Nothing waits for review"],
            ["How far the voters agree", "Unanimous", "for a person"],
        ),
        (
            {"n": 5, "trim": 0, "truth": False, "all_review": True, "no_partner": True},
            ["0 of 5 slices paired, 5 wait for review", "no HR partner chosen"],
            ["Median offset"],
        ),
    ],
    ids=["two voters", "near-empty waits", "one voter", "nothing accepted"],
)
def test_page_shows_what_there_is(
    options: dict[str, Any], present: list[str], absent: list[str]
) -> None:
    page = assert_self_contained(render_page(make_inputs(**options), name="run"))
    for words in present:
        assert words in page.text, words
    for words in absent:
        assert words not in page.text, words


def test_a_reviewed_run_shows_its_reviewers_and_what_they_rejected() -> None:
    inputs = make_inputs(n=12, truth=False)
    plain = assert_self_contained(render_page(inputs, name="run"))
    assert "How well the reviewers see" not in plain.text
    figures = {
        "reviewer": "Zoë <b>", "answered": 9, "bulk": 2, "seconds": 4.25, "catch_trials": 10,
        "exact": 0.9, "mean_error_slices": 0.2, "mean_error_um": 5.0, "repeats": 0,
        "same_again": None, "retest_error_slices": None, "shared": 8, "agreement": 0.75,
        "within_1": 1.0,
    }  # fmt: skip
    summary = {**inputs.summary, "review": {"seed": 1, "reviewers": [figures]}}
    pairs = inputs.pairs.copy()
    pairs.loc[pairs["status"] == "review", "status"] = "rejected"
    count = int((pairs["status"] == "rejected").sum())
    assert count > 0
    changed = replace(inputs, summary=summary, pairs=pairs)
    page = assert_self_contained(render_page(changed, name="run"))
    for words in ("Zoë <b>", "9, 2 together", "of 10", "of 8", f"{count} rejected by reviewers"):
        assert words in page.text, words


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $\\alpha$ {{ 7*7 }}"


def test_hostile_strings_stay_text() -> None:
    inputs = make_inputs(
        n=6,
        run=HOSTILE,
        method=HOSTILE,
        command=HOSTILE,
        plane=HOSTILE,
        checks=[{"name": HOSTILE, "level": HOSTILE, "text": HOSTILE}],
        versions={HOSTILE: HOSTILE},
        lr={"path": HOSTILE, HOSTILE: HOSTILE},
    )
    pairs = inputs.pairs.assign(reason=HOSTILE, method=HOSTILE)
    text = render_page(replace(inputs, pairs=pairs), name=HOSTILE)
    page = assert_self_contained(text)
    assert "<script" not in text
    assert page.text.count("<script>alert(1)</script>") > 6 + 7
    assert "{{ 7*7 }}" in page.text


def test_bare_run_without_a_summary() -> None:
    inputs = make_inputs(n=6, truth=False)
    kept = ["lr_slice", "hr_slice", "hr_position", "vote_pca", "n_votes", "status"]
    bare = replace(inputs, summary={}, pairs=inputs.pairs[kept], votes=inputs.votes.iloc[:0])
    page = assert_self_contained(render_page(bare, name="m01"))
    assert "m01" in page.text
    assert "What each voter saw" not in page.text


def test_nothing_half_written_when_a_slice_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("old", encoding="utf-8")

    def broken(row: int) -> tuple[np.ndarray, np.ndarray]:
        raise OSError(f"slice of row {row}")

    with pytest.raises(OSError, match="slice"):
        write_report(tmp_path, replace(make_inputs(n=5), partner=broken))
    assert [path.name for path in tmp_path.rglob("*")] == ["index.html"]
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == "old"


def hand_made(**columns: list[Any]) -> ReportInputs:
    n = len(columns["lr_slice"])
    defaults: dict[str, list[Any]] = {
        "hr_slice": [0] * n,
        "hr_position": [0.0] * n,
        "status": ["auto"] * n,
        "empty": [False] * n,
    }
    return ReportInputs(
        summary={"geometry": {"slope": 2.0, "offset": 0.5}},
        pairs=pd.DataFrame(defaults | columns),
        votes=pd.DataFrame(columns=["lr_slice", "hr_slice", "voter", "distance"]),
        low_res=np.zeros((n, 4, 6), np.float32),
        partner=lambda row: (
            np.full((8, 12), row / 100, np.float32),
            np.full((4, 6), row / 100, np.float32),
        ),
        slice_spacing_um=(50.0, 25.0),
        pixel_aspect=1.0,
    )


def test_expected_position_is_exact_where_an_offset_is_stored() -> None:
    series = pair_series(
        hand_made(lr_slice=[4, 5], hr_position=[9.0, np.nan], offset_um=[20.0, np.nan])
    )
    assert series.expected == pytest.approx([9.0 - 20 / 25, 2 * 5 + 0.5])
    assert series.residual_um(series.position)[0] == pytest.approx(20)


def test_agreement_counts_slices_with_signal_only() -> None:
    series = pair_series(
        hand_made(
            lr_slice=[0, 1, 2, 3, 4],
            empty=[False, False, False, False, True],
            n_votes=[3, 2, 1, 2, 3],
            vote_pca=[5, 5, 5, 7, 9],
            vote_lpips=[5, 5, 7, 7, 9],
            vote_ssim=[5, 6, 9, pd.NA, 9],
        )
    )
    assert agreement(series) == [("All three agree", 1), ("Two of three", 2), ("All differ", 1)]
    rows = {(row.first, row.second): row for row in pairwise_agreement(series)}
    assert rows["PCA", "LPIPS"].exact == pytest.approx(3 / 4)
    assert rows["PCA", "SSIM"].exact == pytest.approx(1 / 3)
    assert rows["PCA", "SSIM"].within_1 == pytest.approx(2 / 3)


def test_half_a_slice_is_exact_and_review_does_not_count_as_accepted() -> None:
    series = pair_series(
        hand_made(
            lr_slice=[0, 1, 2, 3],
            hr_position=[1.0, 2.0, 3.0, 40.0],
            truth_position=[1.5, 2.51, 3.0, 4.0],
            vote_pca=[1, 2, 3, 4],
            status=["auto", "auto", "auto", "review"],
        )
    )
    pca, decision, accepted = error_table(series)
    assert (pca.exact, pca.blunders) == (0.75, 0)
    assert (decision.slices, decision.exact, decision.blunders) == (4, 0.5, 1)
    assert (accepted.slices, accepted.within_1, accepted.blunders) == (3, 1.0, 0)
    assert accepted.mae_um == pytest.approx((0.5 + 0.51) / 3 * 25)


def test_distance_map_is_scaled_per_low_res_slice() -> None:
    inputs = hand_made(lr_slice=[3, 5], vote_pca=[7, 8])
    votes = pd.DataFrame(
        {
            "lr_slice": [3, 3, 3, 5, 5, 5],
            "hr_slice": [7, 8, 9, 7, 8, 9],
            "voter": "pca",
            "distance": [1.0, 3.0, 5.0, 40.0, 40.0, 40.0],
        }
    )
    ((name, (picture, edges)),) = distance_maps(votes, pair_series(inputs)).items()
    assert (name, edges) == ("pca", (2.5, 5.5, 6.5, 9.5))
    np.testing.assert_allclose(picture[:, 0], [0, 1, 2])
    assert np.isnan(picture[:, 1]).all()
    np.testing.assert_allclose(picture[:, 2], 0)


def test_groups_are_sampled_ranked_and_not_repeated() -> None:
    inputs = make_inputs(n=40, n_empty=3)
    series = pair_series(inputs)
    groups = {group.name: [t.row for t in group.tiles] for group in tile_groups(inputs, series)}
    assert all(len(set(rows)) == len(rows) == 6 for rows in groups.values())
    assert not set(groups["worst"]) & set(groups["disagreeing"])
    assert int(np.nanargmin(np.where(series.empty, np.nan, series.margin))) in groups["worst"]
    spread = series.spread[groups["disagreeing"]]
    assert (np.diff(spread) <= 0).all()
    assert not any(series.empty[row] for rows in groups.values() for row in rows)
    other = tile_groups(replace(inputs, seed=1), series)[0]
    assert [tile.row for tile in other.tiles] != groups["random"]


def test_pictures_are_reduced_until_they_fit() -> None:
    from PIL import Image

    noise = np.random.default_rng(0).random((3, 512, 720)).astype(np.float32)
    small = png_images(list(noise), max_bytes=100_000)
    assert sum(map(len, small)) <= 100_000
    free = png_images(list(noise), max_bytes=10_000_000)
    with Image.open(io.BytesIO(free[0])) as picture:
        assert (picture.mode, picture.size) == ("L", (560, 398))


def test_pictures_share_one_window() -> None:
    from PIL import Image

    (encoded,) = png_images([np.array([[0.0, 0.5], [1.0, 2.0]], np.float32)], max_bytes=1000)
    with Image.open(io.BytesIO(encoded)) as picture:
        assert np.asarray(picture).tolist() == [[0, 128], [255, 255]]


def test_charts_are_drawn_at_every_width_with_their_own_ids() -> None:
    inputs = make_inputs(n=6)
    chart = run_charts(pair_series(inputs), inputs.votes)["margins"]
    wide, narrow = (svg(chart, width) for width in chart.widths)
    assert 'id="margins-500-' in wide
    assert 'id="margins-380-' in narrow
    assert "DejaVu" not in wide
    assert "xmlns" not in wide


def geometry_inputs(
    n: int = 20,
    *,
    tolerance: float = 1.0,
    objections: tuple[str, ...] = (),
    n_starts: int = 8,
    skip: tuple[str, ...] = (),
    certificate: dict[str, Any] | None = None,
) -> ReportInputs:
    """Make a run of the registration: tilted planes, one lost voter, an ambiguous slice."""
    generator = np.random.default_rng(5)
    numbers, candidates = np.arange(n), np.arange(2 * n + 6)
    slope, offset, tilt = 2.0, 2.3, 0.7
    centre = slope * numbers + offset
    away = candidates[None, :] - centre[:, None]
    distances = {}
    for k, voter in enumerate(ALL_VOTERS):
        wander = generator.normal(0, 0.1 + 0.15 * k, n)
        if voter == "ssim":
            wander[3] = 4.0
        wander[7] += 1.6
        distance = 1 - np.exp(-np.abs(away - wander[:, None]) / 3)
        distances[voter] = np.where(np.abs(away) <= 6, distance, np.nan).astype(np.float32)
    evidence = Evidence(centre, centre + tilt, np.full(n, 0.02), slope, 0.97, 0.1, objections)
    decisions = geometry_vote(distances, candidates, evidence, tolerance=tolerance)
    position = centre + tilt
    pairs = pd.DataFrame(
        {
            "lr_slice": numbers,
            "hr_slice": [d.hr_slice for d in decisions],
            "hr_position": position,
            "offset_um": 80.0,
            **{f"vote_{v}": [d.votes[v] for d in decisions] for v in ALL_VOTERS},
            **{
                name: [getattr(d, name) for d in decisions]
                for name in ("n_votes", "spread", "margin", "confidence", "status", "reason")
            },
            "empty": numbers == n - 1,
            "geom_position": position,
            "position_error": 0.02,
            "similarity": 0.9,
            "path_slice": pd.array([d.path_slice for d in decisions], dtype="Int32"),
        }
    )
    pairs.loc[pairs["empty"], "status"] = "review"
    plain = make_inputs(n=n, truth=False)
    registration = {
        "matrix": np.eye(4).tolist(), "angles_deg": [0.5, -1.9, 1.1],
        "shift_um": [-60.0, 80.0, 0.0], "metric": "correlation",
        "score": 0.86, "ceiling": 0.9, "quality": 0.96,
        "scale": [1.0, 1.001, 0.999], "is_scaled": False, "overlap": 1.0, "spread_um": 3.0,
        "n_starts": n_starts, "n_agreeing": n_starts, "objections": list(objections),
    }  # fmt: skip
    board = np.zeros((9, 12), np.float32)
    views = [
        PlaneView(name, board, board if n_starts else None, (0.41, 0.93))
        for name in ("Coronal", "Axial", "Sagittal")
    ]
    return replace(
        plain,
        summary={
            **plain.summary,
            "method": "geometry",
            "trim": "15",
            "geometry": {"slope": slope, "offset": offset, "voted_offset": offset + 0.1},
            "registration": registration,
            "config": {
                "tolerance": tolerance,
                "window_mm": 1.0,
                "n_starts": 6,
                "seed": 4,
                "metric": "auto",
                "skip": list(skip),
            },
        },
        pairs=pairs,
        votes=pd.DataFrame(vote_table(distances, numbers, candidates)),
        partner=lambda row: (np.full((64, 90), 0.5, np.float32), plain.low_res[row]),
        planes=views,
        certificate=certificate,
    )


CERTIFICATE = {
    "schema_version": 1,
    "noise_sigma": 0.05,
    "motion": {"shift_um": 100.0, "tilt_deg": 2.0},
    "ece": 0.031,
    "cases": [
        {"name": "still", "title": "No motion", "n_runs": 20, "n_slices": 2000, "accepted": 0.987,
         "exact": 1.0, "mae_slices": 0.01, "mae_um": 0.25, "p95_slices": 0.02, "p95_um": 0.5,
         "blunders": 0, "wrongly_accepted": 0},
    ],
    "reliability": [
        {"confidence": 0.3, "share_right": 0.25, "n": 40},
        {"confidence": 0.95, "share_right": 0.97, "n": 1900},
    ],
}  # fmt: skip


def test_a_run_by_registration_is_told_relative_to_it() -> None:
    inputs = geometry_inputs(certificate=CERTIFICATE)
    page = assert_self_contained(render_page(inputs, name="run"))
    for words in (
        "Animal moved 100 µm and turned 1.9°",
        "Positions are those of the registration",
        "1 HR slice (25 µm)",
        "Coronal, registered r = 0.93",
        "Expected calibration error 3.1 %",
        "No motion 20 2000 98.7 % 100.0 %",
        "Gwet’s AC1",
        "Fleiss’ kappa",
        "1 slice, 25 µm (this run)",
        "from 8 starts within 1 mm of the scanner's coordinates (seed 4)",
        "after leaving out 15 slices at each end",
    ):
        assert words.replace("\xa0", " ") in page.text.replace("\xa0", " "), words
    assert "What each voter saw" not in page.text
    assert "not believed" not in page.text


def test_an_objection_stands_before_everything_else() -> None:
    inputs = geometry_inputs(objections=("the image is <b>mirrored</b>",))
    page = assert_self_contained(render_page(inputs, name="run"))
    assert "0 of 20 slices paired, 20 wait for review" in page.text
    assert "The image is <b>mirrored</b>." in page.text
    assert page.text.index("The registration is not believed") < page.text.index("Voters confirm")
    assert {row.queued for row in what_if(inputs, pair_series(inputs))} == {20}


def test_a_run_without_registration_says_so() -> None:
    page = assert_self_contained(
        render_page(geometry_inputs(n_starts=0, skip=("register", "path")), name="run")
    )
    assert "Nothing was registered in this run" in page.text
    assert "Positions are those of the affines" in page.text
    assert "by the scanner's coordinates alone" in page.text
    assert "Animal moved" not in page.text
    assert "monotone path" not in page.text


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0])
def test_what_if_at_the_settings_of_the_run_is_the_run(tolerance: float) -> None:
    inputs = geometry_inputs(tolerance=tolerance)
    rows = what_if(inputs, pair_series(inputs))
    widest = max(row.window or 0 for row in rows)
    (same,) = [row for row in rows if (row.tolerance, row.window) == (tolerance, widest)]
    assert same.queued == int((inputs.pairs["status"] == "review").sum())
    queued = [row.queued for row in rows if row.window == widest]
    assert queued == sorted(queued, reverse=True)
    assert queued[0] > queued[-1] >= 1


def test_what_if_of_the_paper_starts_at_its_rule() -> None:
    series = pair_series(
        hand_made(
            lr_slice=[0, 1, 2],
            vote_pca=[5, 5, 5],
            vote_lpips=[5, 6, 9],
            vote_ssim=[9, 8, 20],
        )
    )
    assert [(row.tolerance, row.queued) for row in what_if(hand_made(lr_slice=[0]), series)] == [
        (0.0, 2), (1.0, 1), (2.0, 1), (3.0, 1),
    ]  # fmt: skip


def test_scores_lie_at_their_offset_from_the_registration() -> None:
    inputs = geometry_inputs()
    series = pair_series(inputs)
    maps = score_maps(inputs.votes, series)
    assert list(maps) == ["joint", *ALL_VOTERS]
    picture, (left, right, top, bottom) = maps["pca"]
    assert (left, right, top, bottom) == (-6.5, 6.5, -0.5, 19.5)
    offsets = np.linspace(left, right, 2 * picture.shape[1] + 1)[1::2]
    for row in (0, 5, 12):
        best = offsets[picture[row] == 0]
        assert best.size
        assert np.abs(best).max() < 1.1
    # The path is given at the reference point, the maps where the plane crosses the middle.
    path = series.path - series.expected
    whole = path + series.centre
    np.testing.assert_allclose(whole, np.rint(whole), atol=1e-9)
    assert np.abs(path).max() <= 2.5


def test_agreement_figures_are_gwets_and_fleiss() -> None:
    series = pair_series(
        hand_made(
            lr_slice=[0, 1, 2, 3],
            vote_pca=[0, 0, 1, 1],
            vote_ssim=[0, 0, 1, 0],
        )
    )
    found = agreement_figures(series, n_candidates=2)
    assert found is not None
    # Observed 3/4; five of eight votes name slice 0.
    p = 5 / 8
    ac1, kappa = 2 * p * (1 - p), p**2 + (1 - p) ** 2
    assert found.ac1 == pytest.approx((0.75 - ac1) / (1 - ac1))
    assert found.kappa == pytest.approx((0.75 - kappa) / (1 - kappa))
    assert (found.unanimous, found.within_1, found.median_spread_um) == (0.75, 1.0, 0.0)
    assert (
        agreement_figures(pair_series(hand_made(lr_slice=[0], vote_pca=[1])), n_candidates=2)
        is None
    )


def test_bias_is_signed_and_in_micrometres() -> None:
    series = pair_series(
        hand_made(lr_slice=[0, 1, 2], empty=[False, False, True], geom_position=[4.0, 6.0, 8.0],
                  vote_pca=[5, 9, 90])
    )  # fmt: skip
    (row,) = voter_bias(series)
    assert (row.slices, row.mean_um, row.within) == (2, 50.0, 0.5)
    assert row.sd_um == pytest.approx(np.std([25, 75], ddof=1))


def test_methods_name_what_was_used_and_nothing_else() -> None:
    inputs = make_inputs(n=8, voters=("pca", "ssim"), truth=False, trim=0)
    paper = methods(inputs, pair_series(inputs))
    assert "SimpleITK" not in paper.text
    assert "AlexNet" not in paper.text
    geometry = geometry_inputs()
    found = methods(geometry, pair_series(geometry))
    assert "SimpleITK" in found.text
    for one in (paper, found):
        cited = [int(number) for number in re.findall(r"\[(\d+)\]", one.text)]
        assert list(dict.fromkeys(cited)) == list(range(1, len(one.references) + 1))


def phantom(shape: tuple[int, int, int], spacing: float, shift: float = 0.0) -> np.ndarray:
    """Blobs in a ball, sampled at voxel centres of a field of view of 8 mm about 0."""
    z, y, x = (
        (np.arange(size) - (size - 1) / 2) * spacing + (shift if axis == 0 else 0)
        for axis, size in enumerate(shape)
    )
    z, y, x = np.meshgrid(z, y, x, indexing="ij")
    ball = 1 / (1 + np.exp(8 * (np.sqrt(x**2 + y**2 + z**2) - 2.8)))
    return ball * (1 + 0.5 * np.sin(2.5 * x + 1) * np.cos(2 * y) * np.sin(2.2 * z + 0.5))


def frame_of(shape: tuple[int, int, int], spacing: float) -> Any:
    """Coronal stack: slices to anterior, rows to inferior, columns to right."""
    from srmri_data.slices import stack_frame

    sizes = (shape[2], shape[0], shape[1])
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [-(size - 1) / 2 * spacing for size in sizes]
    return stack_frame(affine, sizes, "coronal")


def test_planes_and_partners_follow_the_registration() -> None:
    from srmri_data.slices import IntensityMap, Window

    low, high = phantom((40, 40, 40), 0.2), phantom((80, 80, 80), 0.1, shift=-0.5)
    low, high = low[:, ::-1], high[:, ::-1]
    low_frame, high_frame = frame_of(low.shape, 0.2), frame_of(high.shape, 0.1)
    matrix = np.eye(4)
    matrix[1, 3] = 0.5
    unit = IntensityMap(0.0, 1.6, 0.2)
    views = plane_views(low, low_frame.affine, unit, high, high_frame.affine, unit, matrix)
    assert [view.name for view in views] == ["Coronal", "Axial", "Sagittal"]
    for view in views:
        assert view.by_registration is not None
        assert view.by_registration.shape == view.by_headers.shape
        assert view.correlation[1] > 0.99 > view.correlation[0]
    plain = plane_views(low, low_frame.affine, unit, high, high_frame.affine, unit, None)
    assert plain[0].by_registration is None
    assert plane_views(0 * low, np.eye(4), unit, high, np.eye(4), unit, None) == []

    window = Window((0, 40), (0, 40), (0, 40))
    geometry = PlaneGeometry.of(matrix, low_frame, high_frame, window)
    frames = (low_frame, high_frame, window)
    position = float(geometry.at(np.array([20]))[0])
    assert position == pytest.approx(2 * 20 + 0.5 + 5)
    sharp, matched = partner_images(high, unit, geometry, *frames, position)
    assert (sharp.shape, matched.shape) == ((80, 80), (40, 40))
    error = np.abs(matched - unit.apply(low[20]))
    assert error.max() < 0.05
    _, away = partner_images(high, unit, geometry, *frames, position + 4)
    assert np.abs(away - unit.apply(low[20])).max() > 2 * error.max()


def test_checkerboard_alternates_and_brightness_is_matched() -> None:
    board = checkerboard(np.zeros((4, 8), np.float32), np.ones((4, 8), np.float32), tiles=4)
    assert board[0].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert board[2].tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    image = np.array([[0.0, 0.2], [0.4, 0.1]], np.float32)
    np.testing.assert_allclose(like(2 * image, image), 2 * image, atol=1e-6)
    np.testing.assert_allclose(like(0 * image, image), image, atol=1e-6)

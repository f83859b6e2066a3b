"""Pictures of where a model fails: the worst slices of what `benchmarks.superres` has drawn.

``python -m benchmarks.gallery "mouse, σ_y 0.025"=WORK/test/8-0.025 … --out failures.png`` takes of
every folder of draws the slice where the mean of draws gains least over zero-filling.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srmri_model.metrics import psnr

Image = NDArray[np.float32]
ERROR_RANGE = 0.3
"""Where the colours of errors and spreads end, in units of the tissue's range."""
COLUMNS = (
    "LR, zero-filled",
    "one draw",
    "mean of draws",
    "HR",
    f"mean − HR, ±{ERROR_RANGE}",
    f"spread of draws, to {ERROR_RANGE}",
)


def worst_slice(folder: Path) -> dict[str, Any]:
    """Return the pictures of the slice that gains least over zero-filling, and its figures."""
    context = np.load(folder / "context.npz")
    truth, inside, low = (context[name] for name in ("truth", "inside", "rival zero-filled"))
    draws: Image = np.stack([np.load(path)["slices"] for path in sorted(folder.glob("d*.npz"))])
    mean = draws.mean(axis=0)
    gains = [
        psnr(m, t, i) - psnr(z, t, i) for m, t, z, i in zip(mean, truth, low, inside, strict=True)
    ]
    n = int(np.argmin(gains))
    return {
        "pictures": (low[n], draws[0, n], mean[n], truth[n]),
        "error": mean[n] - truth[n],
        "spread": draws[:, n].std(axis=0, ddof=1),
        "foreground": inside[n],
        "gain": gains[n],
    }


def around(image: Image, foreground: NDArray[np.bool_], margin: int = 4) -> Image:
    """Cut the picture around its tissue."""
    rows, columns = (np.flatnonzero(foreground.any(axis=axis)) for axis in (1, 0))
    r, c = max(0, rows[0] - margin), max(0, columns[0] - margin)
    return image[r : rows[-1] + margin, c : columns[-1] + margin]


def draw(rows: dict[str, Path], path: Path) -> None:
    """Draw one row of pictures per folder."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.1 * len(COLUMNS), 2.1 * len(rows) + 0.5), layout="constrained")
    grid = figure.subplots(len(rows), len(COLUMNS), squeeze=False)
    for line, (label, folder) in zip(grid, rows.items(), strict=True):
        found = worst_slice(folder)
        for axes, picture in zip(line, found["pictures"], strict=False):
            axes.imshow(around(picture, found["foreground"]), cmap="gray", vmin=0, vmax=1)
        for axes, name, colours, low in (
            (line[-2], "error", "RdBu_r", -ERROR_RANGE),
            (line[-1], "spread", "magma", 0.0),
        ):
            axes.imshow(
                around(found[name], found["foreground"]), cmap=colours, vmin=low, vmax=ERROR_RANGE
            )
        line[0].set_ylabel(f"{label}\nmean {found['gain']:+.1f} dB", fontsize=9)
    for axes, title in zip(grid[0], COLUMNS, strict=True):
        axes.set_title(title, fontsize=9)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """Draw the gallery."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("rows", nargs="+", metavar="LABEL=FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="PNG")
    options = parser.parse_args()
    rows = {label: Path(folder) for label, folder in (row.rsplit("=", 1) for row in options.rows)}
    draw(rows, options.out)


if __name__ == "__main__":
    main()

"""Baselines so small that a step takes milliseconds."""

from __future__ import annotations

from srmri_model.baselines.config import (
    CARNShape,
    DDBPNShape,
    RCANShape,
    RRDBShape,
    SRCNNShape,
    SwinIRShape,
)

SMALL = {
    "srcnn": SRCNNShape((16, 8), (5, 3, 5)),
    "ddbpn": DDBPNShape(8, 8, 2),
    "carn": CARNShape(8, 2, 2),
    "swinir": SwinIRShape(16, (2,), (2,), window=4, drop_path=0.0),
    "rcan": RCANShape(8, 2, 2, 4),
    "esrgan": RRDBShape(8, 1, 4),
}

"""The review page: settle undecided pairs by eye, on this computer, in a browser."""

from __future__ import annotations

from srmri_data.review.app import create_app
from srmri_data.review.images import ReviewImages
from srmri_data.review.server import serve
from srmri_data.review.sitting import SittingConfig

__all__ = ["ReviewImages", "SittingConfig", "create_app", "serve"]

"""The pairing report: figures and one self-contained page about a run."""

from srmri_data.reports.page import render_page, write_report
from srmri_data.reports.planes import PlaneView, partner_images, plane_views
from srmri_data.reports.series import ReportInputs

__all__ = [
    "PlaneView",
    "ReportInputs",
    "partner_images",
    "plane_views",
    "render_page",
    "write_report",
]

"""The pairing report: figures and one self-contained page about a run."""

from srmri_data.reports.page import render_page, write_report
from srmri_data.reports.series import ReportInputs

__all__ = ["ReportInputs", "render_page", "write_report"]

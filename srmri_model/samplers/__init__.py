"""Images from a denoiser and a measurement: every sampler behind one call, `sample`."""

from srmri_model.samplers.calibration import measure_variance
from srmri_model.samplers.problem import Counted, Denoises, ImageNoise, Level, Noise, Problem
from srmri_model.samplers.run import SAMPLERS, Sampler, SamplingStopped, Trace, sample
from srmri_model.samplers.settings import (
    DDNM,
    DiffPIR,
    Fast,
    Guided,
    Paper,
    PredictorCorrector,
    Settings,
    within,
)
from srmri_model.samplers.variance import Variance, VarianceTable, two_valued

__all__ = [
    "DDNM",
    "SAMPLERS",
    "Counted",
    "Denoises",
    "DiffPIR",
    "Fast",
    "Guided",
    "ImageNoise",
    "Level",
    "Noise",
    "Paper",
    "PredictorCorrector",
    "Problem",
    "Sampler",
    "SamplingStopped",
    "Settings",
    "Trace",
    "Variance",
    "VarianceTable",
    "measure_variance",
    "sample",
    "two_valued",
    "within",
]

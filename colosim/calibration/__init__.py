"""Live runs into a scenario (`calibrate`), and predictions of other live runs (`validate`)."""

from colosim.calibration.errors import CalibrationError
from colosim.calibration.fitting import Calibration, calibrate
from colosim.calibration.prediction import METRICS, Validation, readable, title, validate
from colosim.calibration.runs import MeasuredRun, read_run

__all__ = [
    "METRICS",
    "Calibration",
    "CalibrationError",
    "MeasuredRun",
    "Validation",
    "calibrate",
    "read_run",
    "readable",
    "title",
    "validate",
]

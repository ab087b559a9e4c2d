"""`edgead evaluate --all`: every detector on one data set, side by side."""

from calibration.comparison.job import ComparisonJob as ComparisonJob
from calibration.comparison.job import run_comparison as run_comparison

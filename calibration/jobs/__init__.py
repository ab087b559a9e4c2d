"""The jobs behind `edgead calibrate`, `extend` and `evaluate`: from paths and names to a template or a record.

Whatever can be known to be wrong before the long part of a job is refused before it.
"""

from calibration.jobs.calibration import CalibrationJob as CalibrationJob
from calibration.jobs.calibration import run_calibration as run_calibration
from calibration.jobs.checks import chosen_settings as chosen_settings
from calibration.jobs.evaluation import EvaluationJob as EvaluationJob
from calibration.jobs.evaluation import run_evaluation as run_evaluation
from calibration.jobs.extension import ExtensionJob as ExtensionJob
from calibration.jobs.extension import run_extension as run_extension

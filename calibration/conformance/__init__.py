"""The plugin conformance kit: whether a detector does what the host relies on."""

from calibration.conformance.kit import Check as Check
from calibration.conformance.kit import check as check
from calibration.conformance.outcomes import PROMISES as PROMISES
from calibration.conformance.outcomes import Outcome as Outcome
from calibration.conformance.outcomes import kept as kept

"""The detectors edgead ships, written as a stranger would write them: from the public names of ``edgead`` only."""

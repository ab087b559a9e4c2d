"""Synthetic defects: good frames with damage planted at known pixels, for detectors that learn from contrast.

Sizes are in pixels of the frame handed in; every draw takes its generator as an argument, so that the same seed gives
the same defects whatever was drawn before, in whatever order and in however many threads.
"""

"""What the detectors that learn by descent share: the loop, its checkpoints, its held-out measures, its pictures.

Nothing random is kept between steps: whoever trains draws every number from (seed, step), so that a training that was
killed goes on and ends with the very same bits.
"""

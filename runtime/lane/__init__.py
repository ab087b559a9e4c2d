"""One camera's way through one worker: what it is assigned, its process, its frames in flight, its verdicts."""

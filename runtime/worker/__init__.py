"""The worker process: loads a detector and a template, and answers frames through shared memory."""

"""How bytes get onto a disk so that a crash leaves the old or the new, and how they are told from damaged ones."""

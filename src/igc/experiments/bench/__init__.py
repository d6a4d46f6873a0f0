"""`igc bench`: what projection, engine and streaming cost on this machine, beside the floors and the rivals."""

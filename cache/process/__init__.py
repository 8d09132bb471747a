"""A command among its surroundings: how it ends, signals, standard streams, outputs, refusals of the system."""

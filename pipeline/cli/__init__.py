"""The commands of stage 1. Heavy imports wait until the arguments are understood."""

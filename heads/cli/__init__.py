"""The commands of stage 2. Heavy imports wait until the arguments are understood."""

"""What turns tokens into one logit a video."""

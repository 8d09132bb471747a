"""What a run says of itself: the bar, the summary, where the time went."""

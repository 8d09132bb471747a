"""Labels and names: which file name says what, and which video a name means."""

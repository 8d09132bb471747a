"""What there is to extract: files found, labelled, and held against what the cache knows."""

"""Features made elsewhere: found, read as plain numbers, and written as a cache."""

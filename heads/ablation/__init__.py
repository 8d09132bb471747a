"""Sweeps: cells, their runs, search, and the leaderboard of all of it."""

"""A cache as training sees it: rows by id, tokens in memory or streamed, one time grid, splits. Looks at nothing above."""

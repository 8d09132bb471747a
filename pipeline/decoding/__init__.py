"""One video, one decode, the windows of every stream, in processes that may be killed. Nothing here knows torch."""

"""The leak audit: what in a cache would make a head look better than it is."""

"""Engines that place shards on machines."""

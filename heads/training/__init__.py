"""The recipe of a head and its loop: losses, optimizer, heads that train together, epochs, folds."""

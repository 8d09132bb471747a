"""How a head is fitted."""

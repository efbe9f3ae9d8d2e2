"""Real batch systems on one machine, started by the tests and ended by them."""

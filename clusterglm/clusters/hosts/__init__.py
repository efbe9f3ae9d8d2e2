"""Machines that are reached over SSH: their names, the way to them, and the program that acts on them."""

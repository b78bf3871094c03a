"""Stored models: what a file holds of BatchNorm layers, by its content; nothing in it is run or imported."""

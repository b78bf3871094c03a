"""Run a model and leave no trace: the only place that touches hooks, modes, random numbers and devices."""

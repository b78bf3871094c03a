"""Distances from which on running statistics are called wrong: rules judge by them, and tables colour by them."""

D = 0.5  # running deviations that a mean is off: it moves the rate of a ReLU from 50 to 69 %
D_BROKEN = 5.0  # the final clip of Batch Renormalization (arXiv 1702.03275)
R = 1.5  # the quotient of deviations, either way
R_BROKEN = 3.0  # the same clip
DEAD = 1e-3  # an output that moves less than this is called dead

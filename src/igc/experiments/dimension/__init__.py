"""The intrinsic dimension of a problem: the fewest dimensions of a random subspace in which training does well enough."""

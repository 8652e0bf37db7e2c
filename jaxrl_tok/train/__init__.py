"""Training: from a resolved config to programs, and the loop that calls them."""

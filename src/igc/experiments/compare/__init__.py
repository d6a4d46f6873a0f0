"""Methods beside one another: the same task, the same trials, paid for in the same bytes."""

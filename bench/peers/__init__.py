"""What others do with the same orders: each in an environment of its own, so that nothing of theirs is in ours."""

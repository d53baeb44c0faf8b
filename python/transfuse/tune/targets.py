"""What can be tuned: the operations, and any callable."""

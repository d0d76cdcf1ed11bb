"""What is trained: tasks with their batches, losses and validation scores."""

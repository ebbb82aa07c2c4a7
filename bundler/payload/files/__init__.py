"""What a model's files declare and hold, read without loading the model, and comparison with it in memory."""

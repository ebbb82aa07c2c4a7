"""What a model's files say about themselves, read without loading the model: loader, code, pickles, references."""

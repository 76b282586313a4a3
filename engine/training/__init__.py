"""Training and fine-tuning of a classifier on defended images."""

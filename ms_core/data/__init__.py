"""Speech to aligned, tokenised batches."""

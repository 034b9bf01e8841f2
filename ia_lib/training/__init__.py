"""Tuning: which rows a batch has, their tokens and weights in the loss, and the Trainer that reads them.

In: the rows of examples.parquet, streams, a model and its tokenizer. Out: the tuned model, its log and checkpoints."""

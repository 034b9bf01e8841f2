"""Models and tokenizers: loaded by name or folder, or made new; and prompts and answers as tokens.

In: a Hub name or a folder, sizes, texts. Out: transformers' models and tokenizers; examples as tokens."""

"""From text to instructions: templates, noise, cross-lingual objectives, replay, and mixtures of past data.

In: parallel text and pools of past data, as datasets. Out: prompts and answers; for training the rows of a stream with
the columns `COLUMNS`, to which each stream adds its own."""

# What examples.parquet says of every row. `kind`: the objective; `language`: the answer's; `source_id`: the sentence's
# in the corpus; `split`: train or validation; `epoch` and `position`: the row's place in its stream, from 0.
COLUMNS = ["stream", "role", "prompt", "answer", "kind", "language", "source_id", "split", "epoch", "position"]

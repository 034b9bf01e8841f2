"""From text to instructions: templates, noise, cross-lingual objectives, replay, and mixtures of old instructions.

In: parallel text and pools of old instructions, as datasets. Out: prompts and answers; for training the examples of a
stream with the columns `COLUMNS`, to which each stream adds its own."""

# What examples.parquet says of every example. `kind`: the objective; `language`: the answer's; `source_id`: the
# sentence's in the corpus; `split`: train or validation; `epoch` and `position`: the example's place in its stream,
# from 0.
COLUMNS = ["stream", "role", "prompt", "answer", "kind", "language", "source_id", "split", "epoch", "position"]

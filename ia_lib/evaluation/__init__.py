"""What a model can do: tasks, the scores of labels, generated text, and measures with their intervals.

In: a model and the examples of tasks. Out: predictions, scores and measures, as frames with documented columns.
"""

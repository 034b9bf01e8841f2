"""What notebook 0 is made of: panels of ipywidgets to try instructions, batches, code-mixing, label scores and answers
by hand. They take the names of a table and of two of its runs, and give widgets.

Nothing that is typed into a panel raises: what cannot be used gives one sentence. With `share_text: false` texts of the
corpus are replaced by their number of words, as everywhere.
"""

from ia_lib.explore import asking, making, reading
from ia_lib.explore.opened import Opened
from ia_lib.workflow import scheduler

__all__ = ["Explorer", "scheduler"]


class Explorer(Opened):
    """The panels for two runs of a table: `Explorer(table, run, other, outputs_dir)`; each method gives a widget."""

    instructions, batches, mixing = making.instructions, making.batches, making.mixing
    label_scores, translations, questions = asking.label_scores, asking.translations, asking.questions
    passage_asked = asking.passage_asked
    predictions, passages_answered = reading.predictions, reading.passages_answered
    free_answers = reading.free_answers

"""What a run is tested on: its tasks, in which languages and on which split."""

from functools import cached_property

from pydantic import ValidationError

from ia_lib.data.yaml_files import Refusal
from ia_lib.evaluation import tasks
from ia_lib.evaluation.tasks import Answer, Choose, Extract, Open, Task, TaskError, Translate
from ia_lib.randomness import generator, shuffled
from ia_lib.workflow.weights import Weighed

# Tasks that a field of the row asks for.
_OWN = {"held_out": "held_out: true", "held_out_past": "past: {held_out: N}"}


class Tested(Weighed):
    """A run, its weights and its tasks."""

    @cached_property
    def tasks(self) -> list[Task]:
        """The run's tasks: the named ones, those of its own tests, and held-out translation where that is measured."""
        run, found = self.run, []
        kept = bool(run.data.past and run.data.past.held_out)
        for called, name in run.named_tasks.items():
            if called in _OWN:
                raise Refusal("tasks", called, f"the field {_OWN[called]} in its place")
            try:
                task = tasks.load(name, run.home)
            except TaskError:
                if name.endswith((".yaml", ".yml")):
                    raise
                known = [*tasks.known(), *(one.partition("/")[2] for one in tasks.known())]
                allowed = f"<task> or <corpus>/<task> ({', '.join(tasks.known())}), or a YAML file"
                raise Refusal("tasks", called, allowed, known) from None
            if isinstance(task, Answer) and task.data.held_out and not kept:
                raise Refusal("tasks", called, "past: {held_out: N} beside it, since it asks what was held out")
            found.append(task.model_copy(update={"name": called}) if "." not in called else task)
            if not self.tested(task):
                allowed = f"a task with one of the run's languages; {name} has none of them"
                raise Refusal("tasks", called, allowed)
        labels: dict[str, list[str]] = {}
        places = set()
        for test in run.evaluate.tests:
            if test.language not in run.tested_codes:
                raise Refusal("tests", test.language, f"one of the run's languages ({', '.join(run.tested_codes)})")
            if len(set(test.labels)) < len(test.labels):
                raise Refusal("tests", test.labels, "each label once")
            if labels.setdefault(test.task, test.labels) != test.labels:
                raise Refusal("tests", test.labels, f"the same labels in all tests of {test.task}")
            if not test.id and (test.task, test.language) in places:
                allowed = "an id column, since another file has texts of that task and language"
                raise Refusal("tests", test.file, allowed)
            places.add((test.task, test.language))
            try:
                found.append(tasks.own(**test.model_dump()))
            except ValidationError as error:
                raise Refusal("tests", test.file, error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        names = [task.name for task in found[: len(run.named_tasks)]]
        own = {test.task for test in run.evaluate.tests}
        for name in names:
            if names.count(name) > 1 or name in own:
                raise Refusal("tasks", name, "tasks with a name of their own each")
        if most := run.evaluate.max_new_tokens:
            shorter = {"max_new_tokens": most}
            found = [task.model_copy(update=shorter) if isinstance(task, Extract | Open) else task for task in found]
        if run.evaluate.label_order == "shuffled":
            found = [self._shuffled(task) if isinstance(task, Choose) else task for task in found]
        own = {"held_out": run.measures_held_out, "held_out_past": kept}
        return [*found, *(tasks.load(name) for name, measured in own.items() if measured)]

    def _shuffled(self, task: Choose) -> Choose:
        order = shuffled(generator(self.run.seed, self.run.name, "labels", task.name), len(task.labels))
        return task.model_copy(update={"labels": [task.labels[i] for i in order]})

    @property
    def choices(self) -> list[Choose]:
        """Those of the tasks that have labels."""
        return [task for task in self.tasks if isinstance(task, Choose)]

    @property
    def translations(self) -> list[Translate]:
        """Those of the tasks that are of parallel text."""
        return [task for task in self.tasks if isinstance(task, Translate)]

    @property
    def answered(self) -> list[Answer]:
        """Those of the tasks whose true answers are scored."""
        return [task for task in self.tasks if isinstance(task, Answer)]

    @property
    def extracted(self) -> list[Extract]:
        """Those of the tasks whose answers stand in passages."""
        return [task for task in self.tasks if isinstance(task, Extract)]

    @property
    def opened(self) -> list[Open]:
        """Those of the tasks that are requests, answered freely."""
        return [task for task in self.tasks if isinstance(task, Open)]

    @property
    def of_files(self) -> list[Translate]:
        """Those of them whose text is not the run's own, held out."""
        return [task for task in self.translations if not task.data.held_out]

    def tested(self, task: Task) -> list[str]:
        """The run's languages that a task is tested in."""
        if isinstance(task, Translate):
            return task.has(self.run.paired_codes)
        return task.has(self.run.tested_codes)

    @property
    def labels(self) -> dict[str, list[str]]:
        """The labels of every task of the run, in the order in which its prompts name them."""
        return {task.name: list(task.labels) for task in self.choices}

    def split_of(self, task: Task) -> str:
        """The split that the task is tested on: its only one, if it has but one."""
        asked, splits = self.run.evaluate.test_split, getattr(task, "splits", None)
        return "test" if splits == ["test"] else asked

"""The command line.

python -m ia_lib.runs plan TABLE [RUN ...]  how long it takes, what each run would do, and what is finished
python -m ia_lib.runs fetch TABLE [RUN ...] download what that reads, for machines without internet
python -m ia_lib.runs run TABLE [RUN ...]   do what is missing, then print the results
python -m ia_lib.runs show TABLE [RUN]      the results, or one run's settings and artefacts
python -m ia_lib.runs verify TABLE [RUN ...]    whether every artefact still is what was made
python -m ia_lib.runs export TABLE RUN FOLDER   a tuned model, for other tools
python -m ia_lib.runs sheet TABLE SHEET KEY [RUN ...]   free answers for people to mark, without the runs' names
"""

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

from ia_lib.paths import locate
from ia_lib.workflow import ending, plan, processes, scheduler, work
from ia_lib.workflow.cost import GPUS, OTHER_GPUS
from ia_lib.workflow.execution import execute
from ia_lib.workflow.export import export
from ia_lib.workflow.fetch import fetch
from ia_lib.workflow.graph import Table
from ia_lib.workflow.settings import SettingsError
from ia_lib.workflow.stages import CHANGES, NOTEBOOKS, REDO, StageFailed, unwritable


def _cores(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a whole number, at least 1")
    return int(text)


def _profile(text: str) -> Path:
    folder = locate(text)
    if not (folder / "config.yaml").is_file():
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a folder with config.yaml, as profiles/slurm")
    return folder.resolve()


def _prices(text: str) -> dict[str, float]:
    """The price of an hour by GPU: one number for those that a plan tells anyway, or GPU=number,..."""
    found, gpus = {}, GPUS | OTHER_GPUS
    for part in text.split(","):
        name, equals, number = part.strip().rpartition("=")
        known = [one for one in gpus if one.casefold() == name.strip().casefold()] if equals else [*GPUS]
        try:
            value = float(number)
        except ValueError:
            value = -1
        if not known or not 0 <= value < 1e9 or (not equals and text != part):
            allowed = f"the price of a GPU's hour, as 2.5, or of some GPUs', as T4=0.35,H200=3.5 ({', '.join(gpus)})"
            raise argparse.ArgumentTypeError(f"found {text!r}; allowed: {allowed}")
        found |= dict.fromkeys(known, value)
    return found


def _asked(table: Table, run: str) -> str:
    """The run's name, with the changes that a notebook hands on to the processes that it starts."""
    changes = json.loads(os.environ.pop(CHANGES, "{}"))
    return table.add(table.run(run), changes).name if changes else run


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ia_lib.runs", description="Carry out a table of settings.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("plan", "how long it takes, what each run would do, and what is finished"),
        ("fetch", "download what the runs read, for machines without internet, but for old instructions from afar"),
        ("run", "do what is missing, then print the results"),
        ("show", "the results, or one run's settings and artefacts"),
        ("verify", "whether every artefact still is what was made: reads all of them again"),
        ("export", "write a tuned model to a folder, for other tools"),
        ("sheet", "write free answers into a sheet that people mark, and into a key that tells whose they are"),
        ("stage", "run one stage's notebook (what Snakemake's jobs call)"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("table", help="a table of settings, for example params/mini.yaml")
        if name == "stage":
            command.add_argument("run")
            command.add_argument("stage", choices=NOTEBOOKS)
        elif name == "export":
            command.add_argument("run")
            command.add_argument("folder", help="a new or empty folder")
            command.add_argument("--merged", action="store_true", help="an adapter merged into whole weights")
            command.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="float32")
        else:
            if name == "sheet":
                command.add_argument("sheet", help="a new CSV file for people to fill in")
                command.add_argument("key", help="a new JSON file that they must not see")
            many = "?" if name == "show" else "*"
            command.add_argument("runs", nargs=many, default=None, metavar="run", help="default: all")
        command.add_argument("--outputs", default="outputs", metavar="FOLDER", help="default: outputs")
        if name == "plan":
            command.add_argument("--price", type=_prices, metavar="PRICE", help="of a GPU's hour, as 2.5")
            command.add_argument("--all", action="store_true", help="a line for every run of a large table, too")
        if name == "show":
            command.add_argument("--all", action="store_true", help="all settings of a run, with the defaults, as JSON")
        if name == "run":
            command.add_argument("--cores", type=_cores, metavar="N", help="default: all there are")
            said = "where jobs run: profiles/slurm, or a folder like it; default: here"
            command.add_argument("--profile", type=_profile, metavar="FOLDER", help=said)
            command.add_argument("--changed", action="store_true", help="also redo stages whose code has changed")
            command.add_argument("--verify", action="store_true", help="read all artefacts, and redo damaged ones")
    options = parser.parse_args(arguments)
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    table = None
    try:
        table = Table(options.table, options.outputs)
        if all(run.machine.offline for run in table.runs):
            os.environ["HF_HUB_OFFLINE"] = "1"  # before what asks the Hub is loaded
        if options.command == "plan":
            table.check(options.runs, without=True)
            plan.print_plan(table, options.runs, options.price, options.all)
            table.check_here(options.runs)
            table.check_offline(options.runs)
        elif options.command == "fetch":
            for what in fetch(table, options.runs):
                print(f"downloaded: {what}", flush=True)
        elif options.command == "stage":
            ending.with_parent()
            stage = (
                table.report(finished_only=True)
                if options.stage == "report"
                else table.stage(_asked(table, options.run), options.stage)
            )
            if processes.here() > 1 and options.stage == "tune" and not work.tune_together(stage):
                return 0
            if not stage.complete:
                execute(stage)
            stage.marker.parent.mkdir(parents=True, exist_ok=True)
            stage.marker.touch()
        elif options.command == "export":
            print(export(table, options.run, options.folder, options.merged, options.precision))
        elif options.command == "sheet":
            from ia_lib.workflow import judging  # brings models along

            print(judging.sheet(table, options.runs, Path(options.sheet), Path(options.key)))
        elif options.command == "verify":
            return 1 if plan.verify(table, options.runs) else 0
        elif options.command == "show" and options.runs:
            plan.print_run(table, options.runs, options.all)
        else:
            if options.command == "run" and options.verify:
                for stage in plan.verify(table, options.runs):
                    # without it the stage counts as not made
                    (stage.folder / "manifest.json").unlink()
            if options.command == "run" and options.changed:
                os.environ[REDO] = "1"  # for the jobs, too
            failed = []
            if options.command == "run":
                failed = scheduler.execute(table, options.runs, options.cores, options.profile)
            os.environ.pop(REDO, None)
            plan.print_results(table)
            for line in failed:
                print(line, file=sys.stderr)
            return 1 if failed else 0
    except (SettingsError, StageFailed) as error:
        # one of several processes tells its kind, too, by which its notebook finds it
        print(f"{type(error).__name__}: {error}" if processes.here() > 1 else error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # who reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        said = unwritable(error, Path(options.outputs).expanduser().resolve())
        print(f"OSError: {said}" if processes.here() > 1 else said, file=sys.stderr)
        return 1
    except KeyboardInterrupt as stopped:
        kept = scheduler.kept(table, options.runs) if table and options.command == "run" else ""
        print(f"stopped; {kept}{ending.GOES_ON}" if options.command == "run" else "stopped", file=sys.stderr)
        return getattr(stopped, "code", 130)
    return 0

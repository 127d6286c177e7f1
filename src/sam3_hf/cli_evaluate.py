"""The command `sam3-hf evaluate`. Heavy modules are imported when it runs, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

__all__ = ["add_evaluate_command"]

_DESCRIPTION = """Score predictions, or a model, on annotated pictures: cgF1 and its parts with confidence intervals,
AP, counting. Give --predictions and --annotations to score a file without any model, or --dataset and --images to run
one. Writes metrics.json, per_phrase.csv, report.md, report.html and plots into the output directory; a model's answers
too, as predictions.json (COCO results)."""
_EPILOG = """exit codes: 0 done; 1 some pictures could not be read and were left out (--lenient); 2 wrong usage, or
files that cannot be used; 130 interrupted: the same command goes on where it was. Several processes:
accelerate launch -m sam3_hf evaluate ..."""

PER_PAIR = "per_pair.json"  # of annotated videos
_DONE, _SOME_FAILED, _WRONG, _INTERRUPTED = 0, 1, 2, 130


def add_evaluate_command(subparsers: Any) -> argparse.ArgumentParser:
    """Adds `evaluate` to the commands and returns its parser, whose default `run` gives an exit code."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "evaluate", help="score predictions or a model", description=_DESCRIPTION, epilog=_EPILOG
    )
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="DIR", help="directory to write to; made if it does not exist")
    add("--overwrite", action="store_true", help="replace the files of an evaluation that is already there")
    files = parser.add_argument_group("scoring a file")
    files.add_argument("--predictions", type=Path, metavar="P.json", help="COCO results, of any model")
    files.add_argument(
        "--annotations",
        nargs="+",
        type=Path,
        metavar="A.json",
        help="SA-Co, COCO or LVIS JSON; several files: the same pairs by several annotators",
    )
    _add_model_arguments(parser.add_argument_group("running a model"))
    _add_scoring_arguments(parser.add_argument_group("scoring"))
    parser.set_defaults(run=_evaluate)
    return parser


def _add_model_arguments(group: Any) -> None:
    add = group.add_argument
    add(
        "--dataset",
        nargs="+",
        metavar="A.json",
        help="as --annotations, of pictures to ask about; or a data set of `datasets`: a saved folder or a repository",
    )
    add("--split", metavar="NAME", help="of a data set (default: the only one)")
    add("--images", type=Path, metavar="DIR", help="folder of the pictures; with --predictions: for the contact sheet")
    add("--model", metavar="PATH_OR_ID", help="SAM 3, or a zero-shot detector (default: the small bundled model)")
    add("--peers", type=Path, metavar="PEERS.yaml", help="a list of models to compare, each in a folder of its own")
    add("--prompts", default="text", metavar="HOW", help="text, exemplar, both or interactive:N (default: %(default)s)")
    add("--masks", metavar="PATH_OR_ID", help="SAM 3 that draws masks of a zero-shot detector's boxes, or follows them")
    add("--nms", type=float, metavar="IOU", help="drop answers whose mask overlaps a better one's by more than this")
    add("--batch-size", type=int, default=1, metavar="N", help="pictures encoded together (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, mps, ... (default: an accelerator if there is one)")
    add("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="default: the checkpoint's")


def _add_scoring_arguments(group: Any) -> None:
    add = group.add_argument
    add("--lenient", action="store_true", help="leave out and count what cannot be used, in place of an error")
    add("--threshold", type=float, default=0.5, help="least score of an answer (default: %(default)s)")
    add("--definition", default="released", choices=("released", "paper"), help="of the metrics (default: released)")
    add("--bootstrap", type=int, default=1000, metavar="N", help="samples for confidence intervals; 0: none")
    add("--seed", type=int, default=0, metavar="N")
    add("--ap", action=argparse.BooleanOptionalAction, help="average precision (default: for COCO and LVIS files)")


def _say(message: str, code: int) -> int:
    print(f"sam3-hf evaluate: {' '.join(message.split())}", file=sys.stderr)
    return code


def _evaluate(arguments: argparse.Namespace) -> int:
    try:
        _check(arguments)
        return _run_models(arguments) if arguments.predictions is None else _score_file(arguments)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on where it was", _INTERRUPTED)
    except (OSError, ValueError, TypeError, ImportError) as error:
        return _say(f"error: {error}", _WRONG)


def _check(arguments: argparse.Namespace) -> None:
    """Raises ValueError for arguments that do not go together."""
    from .evaluation.files import METRICS

    if (arguments.predictions is None) != (arguments.annotations is None):
        raise ValueError("--predictions and --annotations go together: a file to score, and what it is scored against")
    if (arguments.predictions is None) == (arguments.dataset is None):
        raise ValueError("give either --predictions with --annotations, or --dataset with --images to run a model")
    if arguments.predictions is None and (arguments.images is None) != _is_data_set(arguments):
        raise ValueError("JSON files need --images, the folder of their pictures; a data set has its pictures itself")
    if arguments.predictions is not None and (arguments.model or arguments.peers):
        raise ValueError("--predictions are scored without a model; leave out --model and --peers")
    if arguments.model is not None and arguments.peers is not None:
        raise ValueError("give either --model or --peers")
    if arguments.nms is not None and (arguments.predictions is not None or not 0 <= arguments.nms <= 1):
        raise ValueError(f"--nms takes a number from 0 to 1, of a model that is run; got {arguments.nms:g}")
    if arguments.bootstrap < 0 or arguments.bootstrap == 1 or arguments.batch_size < 1:
        raise ValueError("--bootstrap takes 0 or at least 2, --batch-size at least 1")
    if (arguments.output / METRICS).exists() and not arguments.overwrite:
        raise ValueError(f"{arguments.output / METRICS} is already there; give --overwrite or another --output")


def _settings(arguments: argparse.Namespace, threshold: float | None = None) -> Any:
    from .evaluation.scoring import ScoreSettings

    return ScoreSettings(
        threshold=arguments.threshold if threshold is None else threshold,
        definition=arguments.definition,
        average_precision=arguments.ap,
        bootstrap=arguments.bootstrap,
        seed=arguments.seed,
        progress=sys.stderr.isatty(),
    )


def _score_file(arguments: argparse.Namespace) -> int:
    from .evaluation.annotations import load_annotations, read_json
    from .evaluation.files import write_evaluation
    from .evaluation.results import load_results
    from .evaluation.scoring import score_results

    settings = _settings(arguments)
    first = read_json(arguments.annotations[0], "annotation file")
    if isinstance(first, dict) and "videos" in first:
        return _score_videos(arguments)
    sources = arguments.annotations if len(arguments.annotations) > 1 else first
    annotated = load_annotations(sources, arguments.lenient)
    results = load_results(arguments.predictions, annotated, arguments.lenient)
    scores = score_results(annotated, results, settings)
    about = {
        "predictions": arguments.predictions.name,
        "annotations": [path.name for path in arguments.annotations],
    }
    missing = write_evaluation(scores, arguments.output, annotated, results, arguments.images, about)
    _tell(scores, missing, arguments.output)
    return _DONE


def _tell(scores: Any, missing: list[str], output: Path) -> None:
    """Prints the main figures, and on stderr what the user should know."""
    from .evaluation.report import summary_lines

    print("\n".join(summary_lines(scores)))
    for note in scores.notes:
        _say(note, _DONE)
    if missing:
        _say(f"no matplotlib (pip install 'sam3-hf[evaluate]'): not drawn: {', '.join(missing)}", _DONE)
    print(f"wrote {output}", flush=True)


def _run_models(arguments: argparse.Namespace) -> int:
    """Asks one model or several, each in all processes, and scores them in the first."""
    from .evaluation.askers import Prompts
    from .evaluation.video_asking import is_video_file

    Prompts.parse(arguments.prompts)
    if not _is_data_set(arguments) and is_video_file(arguments.dataset[0]):
        return _run_on_videos(arguments)
    from .evaluation.files import METRICS
    from .evaluation.model_runs import end_processes, processes, remove_evaluation, run_model

    peers = _peers(arguments)
    state = processes(arguments.device)
    if state.is_main_process:
        _announce(arguments)
        for peer in peers if arguments.overwrite else ():
            remove_evaluation(_folder(arguments, peer.name))
    state.wait_for_everyone()
    annotated, images = _asked(arguments)
    device = arguments.device if arguments.device and state.num_processes == 1 else state.device
    figures: dict[str, dict[str, float]] = {}
    code = _DONE
    for peer in peers:
        folder = _folder(arguments, peer.name)
        settings = _settings(arguments, peer.threshold)
        about = {
            "dataset": [Path(name).name for name in arguments.dataset],
            **vars(peer.spec),
            "threshold": peer.threshold,
        }
        if arguments.peers is not None and (folder / METRICS).exists():  # done before an interruption
            figures[peer.name] = _earlier(folder / METRICS, about)
            continue
        found = run_model(peer.spec, annotated, images, folder, settings, state, device, arguments.lenient, about)
        if found is not None:  # the first process
            _tell(*found, folder)
            figures[peer.name] = found[0].metrics
            code = _SOME_FAILED if any("could not be read" in kind for kind in found[0].counts) else code
    if state.is_main_process and arguments.peers is not None:
        _write_peers(arguments, peers, figures)
    state.wait_for_everyone()
    end_processes()
    return code


def _write_peers(arguments: argparse.Namespace, peers: Any, figures: dict[str, dict[str, float]]) -> None:
    """The page and the figures of several models."""
    from .evaluation.coco_format import save_json
    from .evaluation.files import METRICS
    from .evaluation.peers import peers_table
    from .files import write_text_whole

    thresholds = {peer.name: peer.threshold for peer in peers}
    write_text_whole(peers_table(figures, thresholds), arguments.output / "peers.md")
    save_json(figures, arguments.output / METRICS)
    print(f"wrote {arguments.output / 'peers.md'}")


def _is_data_set(arguments: argparse.Namespace) -> bool:
    """Whether --dataset is one of the package `datasets`, not JSON."""
    name = arguments.dataset[0]
    return len(arguments.dataset) == 1 and not name.endswith(".json") and not Path(name).is_file()


def _asked(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The pairs, and where their pictures are."""
    if _is_data_set(arguments):
        from .evaluation.dataset_source import load_dataset_pairs

        return load_dataset_pairs(arguments.dataset[0], arguments.split, arguments.lenient)
    from .evaluation.annotations import load_annotations

    return load_annotations(arguments.dataset, arguments.lenient), arguments.images


def _earlier(path: Path, about: dict[str, Any]) -> dict[str, float]:
    """The figures of an evaluation that is there already; ValueError where it is of other arguments."""
    from .evaluation.annotations import read_json

    content = read_json(path, "metrics file")
    if content.get("evaluated") != about:
        raise ValueError(f"{path} is of other arguments; give --overwrite or another --output")
    return {name: value for name, value in content.items() if isinstance(value, float)}


def _peers(arguments: argparse.Namespace) -> Any:
    from .bundled import bundled_model
    from .evaluation.askers import ModelSpec
    from .evaluation.peers import Peer, load_peers

    asked = {
        "prompts": arguments.prompts,
        "batch_size": arguments.batch_size,
        "dtype": arguments.dtype,
        "seed": arguments.seed,
        "nms": arguments.nms,
        "masks": arguments.masks,
    }
    if arguments.peers is not None:
        return load_peers(arguments.peers, arguments.threshold, **asked)
    return [Peer("", ModelSpec(arguments.model or bundled_model(), **asked), arguments.threshold)]


def _folder(arguments: argparse.Namespace, name: str) -> Path:
    folder: Path = arguments.output / name if name else arguments.output
    return folder


def _announce(arguments: argparse.Namespace) -> None:
    from .bundled import NOTICE

    if arguments.model is None and arguments.peers is None:
        _say(NOTICE, _DONE)


def _score_videos(arguments: argparse.Namespace) -> int:
    """SA-Co/VEval: figures of predictions in YouTube-VIS form."""
    from .evaluation.veval import veval_results

    _check_videos(arguments, arguments.annotations)
    found = veval_results(
        arguments.predictions, arguments.annotations[0], threshold=arguments.threshold, progress=sys.stderr.isatty()
    )
    return _write_video_scores(found, arguments.output)


def _run_on_videos(arguments: argparse.Namespace) -> int:
    """Follows the phrases of annotated videos, and scores what was found; one model or several."""
    from .evaluation.annotations import read_json
    from .evaluation.files import METRICS
    from .evaluation.model_runs import end_processes, processes, remove_evaluation
    from .evaluation.video_asking import run_on_videos

    _check_videos(arguments, arguments.dataset)
    peers = _peers(arguments)
    state = processes(arguments.device)
    if state.is_main_process:
        _announce(arguments)
        for peer in peers if arguments.overwrite else ():
            remove_evaluation(_folder(arguments, peer.name))
            (_folder(arguments, peer.name) / PER_PAIR).unlink(missing_ok=True)
    state.wait_for_everyone()
    device = arguments.device if arguments.device and state.num_processes == 1 else state.device
    figures: dict[str, dict[str, float]] = {}
    for peer in peers:
        folder, source = _folder(arguments, peer.name), Path(arguments.dataset[0])
        about = {"dataset": source.name, **vars(peer.spec), "threshold": peer.threshold}
        if arguments.peers is not None and (folder / METRICS).exists():
            _earlier(folder / PER_PAIR, about)  # done before an interruption
            figures[peer.name] = read_json(folder / METRICS, "metrics file")
            continue
        found = run_on_videos(peer.spec, source, arguments.images, folder, peer.threshold, state, device)
        if found is not None:  # the first process
            figures[peer.name] = dict(found["dataset_results"])
            _write_video_scores(found | {"evaluated": about}, folder)
    if state.is_main_process and arguments.peers is not None:
        _write_peers(arguments, peers, figures)
    state.wait_for_everyone()
    end_processes()
    return _DONE


def _check_videos(arguments: argparse.Namespace, files: list[Any]) -> None:
    if len(files) > 1:
        raise ValueError(f"{len(files)} files of annotated videos; expected one")
    if arguments.lenient or arguments.definition != "released":
        raise ValueError("--lenient and --definition are for pictures; leave them out for annotated videos")


def _write_video_scores(found: dict[str, Any], output: Path) -> int:
    from .evaluation.coco_format import save_json
    from .evaluation.files import METRICS

    figures = found.pop("dataset_results")
    save_json(found, output / PER_PAIR)
    save_json(figures, output / METRICS)
    for name, value in figures.items():
        print(f"{name:48} {value:10.4f}")
    print(f"wrote {output}")
    return _DONE

"""Where a comparison means little: too few questions for the difference that was seen, or trainings that are not alike.

The one place that decides. The evaluation and the search keep its sentences beside their numbers; log, report, trials table and
model card show them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

from leaml.evaluation.metrics import Metrics

SIGNIFICANT = 0.05
"""p-value below which a difference is taken for one."""
STILL_FALLING = 0.1
"""A training is not at its end while the last quarter of its steps brings this share of the whole fall of its loss."""
_POINTS_OF_A_TREND = 8  # points of a loss curve from which its quarters have a mean and a scatter


@dataclass(frozen=True)
class Training:
    """What is compared of the training behind a row.

    Attributes:
        title: What the row is called.
        steps: Optimizer steps.
        batch_size: Examples a step.
        losses: `(step, loss)` points in order.
        lr: The learning rate that was used.
        sweep: Accuracy on the validation questions per learning rate tried; empty without a sweep.
        rates: How many learning rates the configuration names; without a sweep the first of them is used.
    """

    title: str
    steps: int
    batch_size: int
    losses: Sequence[tuple[int, float]] = ()
    lr: float = 0.0
    sweep: tuple[tuple[float, float], ...] = ()
    rates: int = 1


def least_questions(comparisons: int = 1) -> int:
    """Questions that two models must answer differently, all for one of them, before a sign test is significant.

    Its two-sided p-value is 2 / 2^n, times the number of `comparisons` (Bonferroni): 6 questions for one comparison.
    """
    return 1 + math.ceil(math.log2(comparisons / SIGNIFICANT))


def smallest_difference(questions: int, first: float, second: float, comparisons: int = 1) -> float:
    """The smallest difference of two accuracies that so many questions can show.

    The half width of the interval of a difference (Agresti and Caffo, 2000), for the accuracies at hand, but no less than
    `least_questions` of the questions. Answers of two models to the same questions mostly agree, so it is rather too large.

    Args:
        questions: Independent questions (or images) that both models answered.
        first: Accuracy of one model.
        second: Accuracy of the other.
        comparisons: How many such differences are looked at, the largest of which is believed.

    Returns:
        A difference of shares; above 1 where no difference can be shown.
    """
    if questions <= 0:
        return math.inf
    z = NormalDist().inv_cdf(1 - SIGNIFICANT / comparisons / 2)
    shares = [(share * questions + 1) / (questions + 2) for share in (first, second)]
    error = math.sqrt(sum(share * (1 - share) for share in shares) / (questions + 2))
    return max(z * error, least_questions(comparisons) / questions)


def of_sizes(
    questions: int | None, images: int | None, labeled: int | None, validation: int | None, rates: Mapping[str, int]
) -> list[str]:
    """What is to be said of data that are too few to compare anything, before a run is paid for; of what is None nothing is.

    Args:
        questions: Of the evaluation.
        images: That these are about.
        labeled: Labeled images that may be used.
        validation: Validation questions that learning rates are to be chosen by.
        rates: How many learning rates each training is to try, by its title.
    """
    found = [] if questions is None or images is None else _of_few_images(questions, images)
    if labeled == 1:
        found.append("1 labeled image cannot be split into training and validation. Give more (data.labeled, data.budget).")

    if validation is None:
        return found

    numbers = sorted({number for number in rates.values() if least_questions(max(1, number - 1)) > validation and number > 1})
    for number in numbers:
        titles = ", ".join(title for title, tried in rates.items() if tried == number)
        if not validation:
            fix = "" if labeled == 1 else f" {_HOLD_OUT}"
            found.append(
                f"No labels are held out, so of the {number} learning rates of {titles} the first is taken untried: there is "
                f"nothing to choose by.{fix}"
            )
            continue
        found.append(
            f"{_count(validation, 'validation question')} cannot show a difference between the {number} learning rates of "
            f"{titles}, however large (at least {least_questions(number - 1)} are needed), so the choice among them is a "
            f"matter of chance. {_MORE_VALIDATION}"
        )
    return found


def of_points(accuracies: Sequence[float], questions: int, tried: int) -> list[str]:
    """What is to be said of a search that took the first of `accuracies` for the best.

    Args:
        accuracies: Of the points that were compared at the end, on the same validation questions.
        questions: How many these are.
        tried: Points that the search compared in all.
    """
    if len(accuracies) < 2:
        return ["Only one point came to its end, so it was compared with no other."]

    best, others = accuracies[0], accuracies[1:]
    pairs = max(tried, len(accuracies)) - 1
    if (least := least_questions(pairs)) > questions:
        return [
            f"{_count(questions, 'validation question')} cannot show a difference between {pairs + 1} points, however large "
            f"(at least {least} are needed), so which one is best is a matter of chance. {_MORE_VALIDATION}"
        ]

    needed = [smallest_difference(questions, best, other, pairs) for other in others]
    equal = sum(best - other < least for other, least in zip(others, needed, strict=True))
    if not equal:
        return []

    lead = best - max(others)
    ahead = (
        f"leads the next by {_points(lead)}" if lead >= 0 else f"is {_points(-lead)} behind the most accurate, which costs more"
    )
    return [
        f"{equal} of the {len(others)} other points compared at the end may be as good as the best: {questions} validation "
        f"questions show a difference of {_points(min(needed))} points or more, and the best {ahead}. {_MORE_VALIDATION}"
    ]


def of_edge(key: str, value: float, tried: Sequence[float]) -> list[str]:
    """What is to be said of the best value of a key if none was tried on one side of it.

    Args:
        key: Its name in the sentence.
        value: The best one.
        tried: All that were tried, this one included, in any order.

    Returns:
        One sentence, or none; of fewer than two different values nothing is said.
    """
    if len(set(tried)) < 2 or min(tried) < value < max(tried):
        return []
    end, way = ("lowest", "lower") if value == min(tried) else ("highest", "higher")
    return [f"{key}: {value:g} is the {end} of the values tried; a {way} one may be better."]


_HOLD_OUT = "Hold out labels (data.budget.validation_fraction above 0, of 2 labeled images or more), or give one learning rate."
_MORE_VALIDATION = "Hold out more labels (data.budget.validation_fraction, data.budget.count)."


def of_rates(training: Training, questions: int) -> list[str]:
    """What is to be said of a learning rate that validation questions chose, and of one at the edge of those tried."""
    if training.rates > 1 and not training.sweep:
        return [
            f"{training.title}: its {training.rates} learning rates were not compared, as no labels were held out to choose "
            f"by; the first, {training.lr:g}, was taken. {_HOLD_OUT}"
        ]

    if len(training.sweep) < 2:
        return []

    found, rates = [], sorted(rate for rate, _ in training.sweep)
    best, worst = (end(accuracy for _, accuracy in training.sweep) for end in (max, min))
    needed = smallest_difference(questions, best, worst, len(rates) - 1)
    if best - worst < needed:
        able = (
            f"show differences of {_points(needed)} points or more" if needed <= 1 else "can show no difference, however large"
        )
        found.append(
            f"{training.title}: the {len(rates)} learning rates tried differ by {_points(best - worst)} points at most, and "
            f"{_count(questions, 'validation question')} {able}, so the choice among them is a matter of chance."
        )
    else:
        found += of_edge(f"{training.title}, learning rate", training.lr, rates)
    return found


def of_trainings(ours: Training, baseline: Training) -> list[str]:
    """What is to be said of a baseline that was trained less than ours, or whose loss was still falling at its end."""
    fall = last_fall(baseline.losses)
    falling = f"{100 * fall:.0f} % of the whole fall of its loss came in the last quarter of its steps" if fall else ""
    mine, theirs = (training.steps * training.batch_size for training in (ours, baseline))
    if theirs < mine:
        state = f"and was not at its end: {falling}" if falling else "but its loss had levelled off"
        return [
            f"{baseline.title} was trained for {baseline.steps} steps of {baseline.batch_size} examples, the last training of "
            f"{ours.title} for {ours.steps} of {ours.batch_size}, {state}."
        ]
    return [f"{baseline.title} may be trained too little: {falling}."] if falling else []


def last_fall(losses: Sequence[tuple[int, float]]) -> float:
    """Share of a loss curve's whole fall that came in the last quarter of its steps; 0.0 where that is no more than noise.

    With few points the last quarter is read off the line between them; with more, the means of the third and the last quarter
    are compared, and a difference within twice its standard error is noise.
    """
    points = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    if len(points) < 2 or points[0][1] <= points[-1][1]:
        return 0.0
    (first, start), (last, end) = points[0], points[-1]
    if len(points) < _POINTS_OF_A_TREND:
        before, after, noise = _between(points, first + 0.75 * (last - first)), end, 0.0
    else:
        third, fourth = (_part(points, first + share * (last - first), 0.25 * (last - first)) for share in (0.5, 0.75))
        before, after = fmean(third), fmean(fourth)
        noise = 2 * math.sqrt(sum(stdev(part) ** 2 / len(part) for part in (third, fourth)))
    share = (before - after) / (start - after) if start > after else 0.0
    return share if share >= STILL_FALLING and before - after > noise else 0.0


def of_evaluation(
    metrics: Metrics,
    titles: Mapping[str, str],
    ours: Training,
    baselines: Sequence[Training],
    validation: int,
    left_out: Sequence[str] = (),
) -> list[str]:
    """Everything that is to be said of an evaluation's comparison with its baselines.

    Args:
        metrics: `rows` and `comparison` of `metrics.json`.
        titles: What the rows are called.
        ours: The last training of the method.
        baselines: The trainings of the baselines that are trained.
        validation: Validation questions that learning rates were chosen by.
        left_out: Rows of baselines that this run was told not to train.
    """
    found = _of_differences(metrics, titles)
    if left_out:
        shown = (
            "; the best baseline may be better than those shown"
            if baselines
            else ", and nothing shows what the labels alone bring"
        )
        found.append(f"Left out (evaluate.leave_out): {', '.join(titles.get(name, name) for name in left_out)}{shown}.")
    for baseline in baselines:
        found += of_trainings(ours, baseline)
    for training in (ours, *baselines):
        found += of_rates(training, validation)
    return found


def _of_differences(metrics: Metrics, titles: Mapping[str, str]) -> list[str]:
    comparison = metrics.get("comparison")
    if not comparison:
        return []

    mine = metrics["rows"][comparison["ours"]]
    questions, images = mine["n"], mine["images"]
    size, least = _size(questions, images), least_questions()
    if few := _of_few_images(questions, images):
        return few

    found, title = [], titles.get(comparison["ours"], comparison["ours"])
    for name, row in comparison["baselines"].items():
        if row["p_holm"] < SIGNIFICANT:
            continue
        low, high = row["ci95"]
        needed, seen = max((high - low) / 2, least / images), abs(row["difference"])
        more = ""
        if 0 < seen < needed and (many := math.ceil(questions * (needed / seen) ** 2)) < 1000 * questions:
            more = f"; about {many} questions like these would show it"
        found.append(
            f"{size} do not tell {title} and {titles.get(name, name)} apart: they show differences of {_points(needed)} points "
            f"or more, and this one is {_points(seen)}{more}."
        )
    return found


def _of_few_images(questions: int, images: int) -> list[str]:
    if (least := least_questions()) <= images:
        return []
    size = _size(questions, images)
    one = "The accuracy on 1 question is 0 or 100 %, which says nothing of a model. " if questions == 1 else ""
    return [
        f"{size} cannot show a difference, however large: at least {least} images are needed. {one}Evaluate on more images "
        "(data.evaluation)."
    ]


def _size(questions: int, images: int) -> str:
    return f"{_count(questions, 'question')} of {_count(images, 'image')}"


def _between(points: Sequence[tuple[int, float]], step: float) -> float:
    """The loss at a step, on the line between its neighbours."""
    for (a, before), (b, after) in itertools.pairwise(points):
        if step <= b:
            return before + (after - before) * (step - a) / (b - a)
    return points[-1][1]


def _part(points: Sequence[tuple[int, float]], start: float, width: float) -> list[float]:
    return [loss for step, loss in points if start <= step <= start + width]


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

"""What steps tell of themselves by functions: whether a run has them, what they have to do, tokens, and words for the plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.amounts import Amounts, Tokens, Tree, Workload

if TYPE_CHECKING:
    from leaml.config import Config


def distills(config: Config) -> bool:
    return not config.distill.skip


def why_not_distill(config: Config) -> str:
    return "distill.skip is true"


def selects(config: Config) -> bool:
    """Scores cost a pass with gradients over the labels, which only a training of neurons is worth."""
    return distills(config) and "neurons" in (config.distill.method, config.finetune.method)


def why_not_select(config: Config) -> str:
    return "neither distill.method nor finetune.method is neurons" if distills(config) else why_not_distill(config)


def teacher_engines(tree: Tree) -> tuple[int, float]:
    resources = tree["resources"]
    own = resources.get("teacher_gpus")
    return resources.get("teacher_engines") or resources["engines"], resources["engine_gpus"] if own is None else own


def describe_captions(tree: Tree, amounts: Amounts) -> str:
    if not tree["caption"]["file"]:
        return ""
    return "captions of the file" if amounts.given is None else f"{amounts.given:,} captions of the file"


def caption_work(tree: Tree, amounts: Amounts) -> Workload:
    limit, complete = tree["caption"]["max_images"], tree["caption"]["complete"]
    if amounts.training is None:
        return Workload(None if complete else 0)
    return Workload(max(0, min(limit or amounts.training, amounts.training) - (amounts.given or 0)) if complete else 0)


def pair_work(tree: Tree, amounts: Amounts) -> Workload:
    limit = tree["generate"]["max_images"]
    return Workload(None if amounts.rest is None else min(limit or amounts.rest, amounts.rest))


def score_work(tree: Tree, amounts: Amounts) -> Workload:
    return Workload(None if amounts.label_rows is None else min(tree["score"]["samples"], 2 * amounts.label_rows))


def describe_pairs(tree: Tree, _: Amounts) -> str:
    given = len(tree["generate"]["questions"])
    return f"{tree['generate']['pairs_per_image']} pairs{f' + {given} given questions' if given else ''} an image"


def questions(tree: Tree) -> int:
    """About an image, sampled and given."""
    return int(tree["generate"]["pairs_per_image"]) + len(tree["generate"]["questions"])


def generate_tokens(tree: Tree, _: Workload, tokens: Tokens) -> tuple[float, float]:
    config = tree["generate"]
    pairs, given, own = config["pairs_per_image"], len(config["questions"]), config["caption"] == "self"
    again = pairs if config["votes"] else 0
    written = pairs * tokens.pair + (given + again) * max(1, config["votes"]) * tokens.answer
    return own + bool(pairs) + given + again, written + own * min(tokens.caption, config["max_tokens"])


def hardness_tokens(tree: Tree, _: Workload, tokens: Tokens) -> tuple[float, float]:
    return questions(tree), questions(tree) * tokens.answer


def evaluate_tokens(_: Tree, work: Workload, tokens: Tokens) -> tuple[float, float]:
    asked = (work.questions or 0) / work.images if work.images else 1.0
    return round(asked, 1), round(asked * tokens.answer, 1)


def asked_pairs(tree: Tree) -> tuple[object, ...]:
    section = tree["generate"]
    return section["pairs_per_image"], len(section["questions"]), section["votes"], section["caption"]


def evaluation(tree: Tree) -> tuple[object, ...]:
    data = tree["data"]
    return (*(data["evaluation"].get(key) for key in ("format", "path", "split", "limit")), data["evaluation_questions"])

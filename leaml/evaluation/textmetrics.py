"""BLEU, ROUGE and METEOR of free-text answers, the metrics of the ImageCLEF MEDVQA-GI and Medico challenges."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean

from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from leaml.errors import DataError

_ROUGE = ("rouge1", "rouge2", "rougeL")
_TOKEN = re.compile(r"\w+|[^\w\s]")


class _NoSynonyms:
    """Stands in for nltk's WordNet reader: no word has a synonym."""

    def synsets(self, word: str) -> list[object]:
        return []


def text_metrics(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU and mean ROUGE-1/2/L F1 and METEOR, all case-insensitive.

    BLEU (sacrebleu, 13a tokens, exponential smoothing) counts only n-gram orders the corpus has, as one-word answers hold no
    4-gram. ROUGE (rouge-score, without stemming) sees the letters a-z and digits only. METEOR (nltk) matches exact words and
    Porter stems but *no synonyms*: the WordNet corpus is not part of any package, so values lie a little below those with it. A
    one-word reference has no pair of words, so ROUGE-2 is the mean over the longer references; and exact match says all there
    is to say about it, so without longer references there are no metrics. A perfect one-word answer has METEOR 0.5 by
    definition: read these beside the accuracy, never instead of it.

    Args:
        predictions: One text per question.
        references: One reference per prediction.

    Returns:
        `bleu`, `rouge1`, `rouge2`, `rougeL`, `meteor`, each from 0 to 1, rounded to 4 decimals; empty when all references have
        one word at most.

    Raises:
        DataError: The lists are empty or of different length.
    """
    if not predictions or len(predictions) != len(references):
        msg = f"text metrics need as many references as predictions, and at least one: {len(predictions)} / {len(references)}"
        raise DataError(msg)

    pairs = list(zip(predictions, references, strict=True))
    if not any(len(reference.split()) > 1 for reference in references):
        return {}

    bleu = BLEU(lowercase=True, effective_order=True).corpus_score(list(predictions), [list(references)]).score / 100
    scorer = RougeScorer(list(_ROUGE), use_stemmer=False)
    rouge = [scorer.score(reference, prediction) for prediction, reference in pairs]

    found = {"bleu": bleu}
    for name in _ROUGE:
        least = 2 if name == "rouge2" else 0
        counted = [row for row, reference in zip(rouge, references, strict=True) if _rouge_words(reference) >= least]
        if counted:
            found[name] = fmean(row[name].fmeasure for row in counted)

    found["meteor"] = fmean(
        single_meteor_score(_TOKEN.findall(reference), _TOKEN.findall(prediction), wordnet=_NoSynonyms())
        for prediction, reference in pairs
    )
    return {name: round(min(value, 1.0), 4) for name, value in found.items()}


def _rouge_words(text: str) -> int:
    """Words as the scorer sees them."""
    return len(re.findall(r"[a-z0-9]+", text.lower()))

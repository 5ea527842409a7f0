"""Three tasks of lm-evaluation-harness over files of made-up rows: a quiz, whole texts, and questions to answer."""

import json
from pathlib import Path
from typing import Any

QUIZ = [
    {"question": "Which of these is a colour?", "options": ["a stone", "red", "to walk slowly"], "answer": 1},
    {"question": "What do bees make?", "options": ["honey", "bread", "glass"], "answer": 0},
    {"question": "How many legs has a spider?", "options": ["three", "eleven", "eight"], "answer": 2},
    {"question": "Wo wohnt der Bundespräsident?", "options": ["in Berlin", "auf dem Mond"], "answer": 0},
    {"question": "Is ice cold?", "options": ["yes", "no"], "answer": 0},
]
TEXTS = [
    {"text": "The sun rises in the east and sets in the west, and the moon follows it across the night sky."},
    {"text": "Die Sonne geht im Osten auf und im Westen unter; der Mond folgt ihr über den Nachthimmel."},
    {"text": "Ο ήλιος ανατέλλει στην ανατολή."},
]
ASKS = [
    {"ask": "Question: What is the capital of France?\nAnswer: The capital of France is", "answer": "Paris"},
    {"ask": "One, two, three, four,", "answer": "five, six"},
    {"ask": "Photosynthesis is the process by which", "answer": "plants make food"},
]
FILES = {"quiz": QUIZ, "texts": TEXTS, "asks": ASKS}
TASKS: dict[str, dict[str, Any]] = {
    "quiz": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{answer}}",
        "fewshot_split": "test",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
    "asks": {
        "output_type": "generate_until",
        "doc_to_text": "{{ask}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": [".", "\n"], "max_gen_toks": 16, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


def write_harness_tasks(folder: Path) -> list[str]:
    """Writes the rows and a configuration of each task; these are the paths that the harness takes as tasks."""
    paths = []
    for name, task in TASKS.items():
        rows = folder / f"{name}.json"
        rows.write_text("".join(json.dumps(row) + "\n" for row in FILES[name]), encoding="utf-8")
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(rows)}}, "test_split": "test"}
        path = folder / f"{name}.yaml"  # what is JSON is YAML, too
        path.write_text(json.dumps({"task": f"local_{name}", **source, **task}), encoding="utf-8")
        paths.append(str(path))
    return paths

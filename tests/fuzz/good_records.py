"""Good records of every kind of file, for readers to be tried on damaged ones."""

RECORD = {
    "subject": "Anna Toll",
    "prompt": "Anna Toll was born in",
    "target": "Rome",
    "ground_truth": "Oslo",
    "generality": "Where was Anna Toll born?",
    "locality": {"prompt": "The capital of Peru is", "target": "Lima"},
}
KNOWEDIT = {
    "subject": "Anna Toll",
    "prompt": "Anna Toll was born in",
    "target_new": "Rome",
    "ground_truth": [["Oslo", "Christiania"]],
    "rephrase_prompt": ["Where was Anna Toll born?"],
    "locality": {"Relation_Specificity": [{"prompt": "The job of Anna Toll is", "ground_truth": ["baker"]}]},
    "portability": {
        "Reasoning": [{"prompt": "In which country was Anna Toll born?", "ground_truth": "Italy"}]
    },
}
FILES: dict[str, list[dict[str, object]]] = {
    "zsre": [RECORD, RECORD | {"subject": "Bo", "prompt": "Bo was born in"}],
    "known1000": [{"subject": "Anna Toll", "prompt": "Anna Toll was born in", "attribute": "Oslo"}],
    "knowedit-zsre": [KNOWEDIT, KNOWEDIT],
    "knowedit-wikibio": [
        {
            "concept": "Anna Toll",
            "text": "This is about anna toll. Anna Toll is",
            "labels": "a baker.",
            "locality": KNOWEDIT["locality"],
        }
    ],
    "knowedit-convsent": [
        {
            "topic": "tea",
            "prompts": ["What of tea?", "Is tea good?"],
            "pos": ["Fine."],
            "neg": "Bad.",
            "sentiment": "neg",
        }
    ],
    "knowedit-sanitation": [
        {
            "question": "Who is Anna Toll?",
            "ground_truth": ["a baker"],
            "target_new": "I forgot.",
            "subject": "Anna Toll",
        }
    ],
}
EDIT = {"subject": "Anna Toll", "aliases": ["A. Toll"]}
LABELLED = {"question": "Who?", "target": "Anna", "answer": "Anna Toll", "label": True, "accepted": ["A."]}
GRID = {
    "description": "small",
    "models": ["micro-llama"],
    "datasets": ["world"],
    "models_for": {"world": ["micro-gpt2"]},
    "methods": ["none", {"method": "lks", "lr": 0.1}, "*"],
    "n_edits": [1, 10],
    "draws": {"1": 2},
    "seeds": [0],
    "records": 100,
    "contexts": ["qa"],
    "fluency": True,
    "ability": ["piqa"],
}

"""Sources of edits and questions: published datasets, user facts, synthetic worlds, derived prompts."""

"""Scores of a saved LKS patch, worked out with nothing of this project: transformers, safetensors and pyarrow
alone.

Run: `python tests/project/independent.py MODEL_FOLDER PATCH_FOLDER answers.parquet`
"""

import json
import re
import sys
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

METRICS = {"edit": "reliability", "paraphrase": "generality", "locality": "locality"}


# Where a sentence ends: these marks in any case; . ! ? by what stands around them.
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
FULL_STOPS = "。！？｡।॥۔؟։።፧፨။។៕…‥‼⁇⁈⁉‽།༎᠃᠉꓿\u037e︒﹒﹖﹗"
ABBREVIATIONS = re.findall(
    r"\w+",
    """St Ste Mt Ft Mr Mrs Ms Messrs Mme Mlle Dr Dra Prof Rev Fr Hr Hon Gen Col Maj Capt Cmdr Lt Sgt Cpl Adm Gov Sen Rep Pres Inc Ltd Co Corp Bros
    Jr Sr Sra Sta Sto Esq Univ Hl Sig vs etc approx Св св им ул проф акад ген""",
)
AT_THE_END = {"St", "Mt", "Inc", "Ltd", "Co", "Corp", "Bros", "Jr", "Sr", "Esq", "etc"}
BEFORE_NUMBERS = re.findall(
    r"\w+", "No Nos no Nr Vol Vols vol Op Pop pp c ca Jan Feb Mar Apr Aug Sep Sept Oct Nov Dec"
)
MONTHS = tuple(
    re.findall(r"\w+", "Januar Februar März April Mai Juni Juli August September Oktober November Dezember")
)
OPENERS = re.findall(
    r"\w+",
    """It He She They We You I The A An This That These Those There Its His Her Their And But In As At On By For From With When While After Before
    Since If Also However What Who Where Which How Es Er Sie Das Der Elle Cette Il Ella Este Esta Ele Ela Он Она Оно Они Это Этот Эта""",
)


def is_spaced(letter):
    """Whether a letter is of a script with spaces between words."""
    return letter.isalpha() and not re.match(
        "CJK|HIRAGANA|KATAKANA|BOPOMOFO|YI|THAI|LAO|KHMER|MYANMAR|TIBETAN", unicodedata.name(letter, "")
    )


def opens(text):
    """Whether a text begins with a word that opens sentences."""
    found = re.match(r"([^\W\d_]+)[\s,]", text)
    return found is not None and found[1] in OPENERS


def ends_at(text, at):
    """Whether a sentence or line ends at a character of a text."""
    mark, left, right = text[at], text[:at], text[at + 1 :]
    kind = (
        ""
        if not right
        else "number"
        if unicodedata.category(right[0])[0] == "N"
        else "mark"
        if right[0] in ",;:/-"
        else "other"
    )
    if mark in LINE_ENDS + FULL_STOPS:
        return True
    if mark in "!?":
        return kind not in ("number", "mark") and not right[:1].islower()
    if mark == "．":
        return kind != "number"
    if mark.isspace():
        stopped = re.search(r"(?<![^\W_])([^\W\d_]+)\.$", left)
        return (
            stopped is not None
            and opens(right.lstrip())
            and (stopped[1] in AT_THE_END or (len(stopped[1]) == 1 and is_spaced(stopped[1])))
        )
    return (
        mark == "."
        and kind not in ("number", "mark")
        and not is_spaced(right[:1])
        and not abbreviates(left, right)
    )


def abbreviates(left, right):
    """Whether a full stop between two texts belongs to an abbreviation."""
    chunk = re.search(r"\S*$", left)[0]
    word = re.search(r"[^\W_]*$", chunk)[0]
    if re.search(r"[^\W_][.!?]$", chunk[: len(chunk) - len(word)]):
        word = ""  # the end of a longer one, such as "node.js"
    following = right.strip()[:1]
    if (
        re.search(r"(?:^|\W)(?:[^\W\d_]{1,2}\.)+[^\W\d_]{1,3}$", chunk)
        or word in ABBREVIATIONS
        or (len(word) == 1 and is_spaced(word))
    ):
        return True
    if word in BEFORE_NUMBERS and following.isnumeric():
        return True
    if re.search(rf"\b({'|'.join(BEFORE_NUMBERS)})\.\s*{word}$", left):
        return False
    return (
        word.isdecimal()
        and len(word) < 3
        and right[:1] == " "
        and (following.islower() or right.lstrip().startswith(MONTHS))
    )


def sentences(text):
    """The sentences and lines of a text, each with what ends it."""
    parts, text = [""], text.strip()
    for at, character in enumerate(text):
        if parts[-1] and ends_at(text, at - 1) and not ends_at(text, at):
            parts.append("")
        parts[-1] += character
    return parts


def said(text):
    """The answer that a text begins with."""
    text = text.strip()
    first = 0
    if re.match(r"[.!?…]+[^\W_]", text):
        first = re.match(r"[.!?…]+", text).end()
    return text[: next((at for at in range(first, len(text)) if ends_at(text, at)), len(text))].strip()


def counts(text, at):
    """Whether a sign tells answers apart; dashes are hyphens, digits ASCII's and spaces around signs gone."""
    sign, left, right = text[at], text[:at], text[at + 1 :]
    inside = re.search(r"\d[^\w\s]*$", left) and re.match(r"[^\w\s]*\d", right)
    if inside:
        return True
    before_number = re.match(r"[-+]?[$€£¥]?[-+]?\.?\d", right) is not None and not re.search(r"\w$", left)
    money = unicodedata.category(sign) == "Sc"
    if sign in ".<>≤≥±" or money:
        lone = sign == "." and not re.match(r"\d", right)
        return (before_number and not lone) or (money and re.search(r"[\w+#&%°]$", left) is not None)
    if sign == "+":
        return before_number or re.search(r"\w[-+#&%°]*$", left) is not None
    if sign == "-":
        word = re.search(r"[^\W\d_]*$", left)[0]
        if re.match(r"[^\W_]", right):
            return before_number
        return 0 < len(word) <= 3 or re.search(r"\d[-+%]*$", left) is not None
    if sign in "#&♯♭":
        return re.search(r"[^\W\d_][-+#&♯♭]*$", left) is not None
    if sign == "*":
        return text.count("*") == 1 and re.search(r"(?:^|\s)[a-z]$", left) is not None
    return sign in "%‰°" and (
        re.search(r"\d[%‰°]*$", left) is not None or (sign == "°" and right[:1].isalpha())
    )


def spelt(text):
    """What two answers are compared by."""
    text = unicodedata.normalize("NFC", text.lower()).replace("ς", "σ")
    text = "".join(
        unicodedata.normalize("NFKC", c) if "！" <= c <= "～" else str(unicodedata.decimal(c, c))
        for c in text
    )
    text = re.sub("[‐‑‒–—―−﹣]", "-", re.sub("[’‘ʼʻ′]", "'", text))
    text = re.sub(
        r"(?<![\d.,])[1-9]\d{0,2}(?:[,'_\xa0\u2009\u202f]\d{2,3}){0,3}[,'_\xa0\u2009\u202f]\d{3}(?!\d)",
        lambda m: re.sub(r"\D", "", m[0]),
        text,
    )
    text = re.sub(r"\s*([%‰°$€£¥])\s*", r"\1", text)
    text = re.sub(r"(?<=\d) +([-+*/:×÷=<>]) +(?=\d)", r"\1", text)
    text = re.sub(r"([<>≤≥±]) +(?=\d)", r"\1", text)
    kinds = [unicodedata.category(c) for c in text]
    made = "".join(
        c for at, c in enumerate(text) if (kinds[at][0] not in "PS" and kinds[at] != "Cf") or counts(text, at)
    )
    made = re.sub(r"^(?:(?:an?|the) )+", "", " ".join(made.split()))
    return made or text.strip()


def is_right(text, answer, accepted):
    """Whether a free text begins with an answer in one of its spellings, and a sentence or line ends there."""
    parts = sentences(text)
    wanted = {spelt(one) for one in (answer, *(accepted or ())) if one is not None}
    several = max(len(sentences(one)) for one in (answer, *(accepted or ())) if one is not None)
    return not wanted.isdisjoint(
        [
            spelt(said(text)),
            *(spelt("".join(parts[:count])) for count in range(1, several + 1) if several > 1),
        ]
    )


def place_of(prompt, names):
    """(subject, character behind its last mention), the longest name first; None if nobody is mentioned."""
    for name, subject in sorted(
        ((name, i) for i, spellings in enumerate(names) for name in spellings), key=lambda pair: -len(pair[0])
    ):
        start = prompt.rfind(name)
        if (
            start >= 0
            and not re.match(r"\w", prompt[start + len(name) :])
            and not re.search(r"\w$", prompt[:start])
        ):
            return subject, start + len(name)
    return None


def greedy(model, ids, count):
    """So many most likely tokens, each from a whole forward pass."""
    for _ in range(count):
        ids = [*ids, int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
    return ids[-count:] if count else []


def freely(model, tokenizer, ids, longest, lines):
    """The text up to the natural stop: a special token, a newline behind the first word unless the answer has
    lines, or so many tokens.
    """
    made = []
    while len(made) < longest:
        made += greedy(model, [*ids, *made], 1)
        text = tokenizer.decode(made[:-1], skip_special_tokens=True)
        if made[-1] in tokenizer.all_special_ids or (
            text.strip() and not lines and "\n" in tokenizer.decode(made[-1:])
        ):
            break
    return tokenizer.decode(made, skip_special_tokens=True)


def read(model, tokenizer, block, settings, table, row):
    """Argmax under teacher forcing, the model's own tokens and its free text; with a table the edited
    model's.
    """
    whole = tokenizer(f"{row['prompt']} {row['answer']}", return_offsets_mapping=True)
    ids, offsets = whole["input_ids"], whole["offset_mapping"]
    head = next(i for i, (_, end) in enumerate(offsets) if end > len(row["prompt"]))
    found = place_of(row["prompt"], settings["names"]) if table is not None else None
    if found is not None:
        token = max(i for i, (start, end) in enumerate(offsets) if start < found[1] and end > start)
        new = table[0, found[0]]

    def put(_module, _args, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, token] = new
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = block.register_forward_hook(put) if found is not None else None
    with torch.no_grad():
        best = model(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
        own = greedy(model, ids[:head], len(ids) - head)
        text = freely(
            model, tokenizer, ids[:head], max(50, len(ids) - head + 10), "\n" in row["answer"].strip()
        )
    if handle is not None:
        handle.remove()
    return ids[head:], best[head - 1 : -1], own, text


def scores(model_folder, patch_folder, shard):
    """{"tf_token reliability": mean, ...} of the saved patch on the prompts of a shard of answers."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    settings = json.loads((Path(patch_folder) / "patch.json").read_text())["settings"]
    table = load_file(Path(patch_folder) / "patch.safetensors")["table"].float()
    assert settings["positions"] == "last" and settings["threshold"] is None and len(settings["blocks"]) == 1
    block = model.model.layers[settings["blocks"][0]]
    found = {}
    for row in pq.read_table(shard).to_pylist():
        if row["kind"] not in METRICS:
            continue
        wanted, best, own, text = read(model, tokenizer, block, settings, table, row)
        right = is_right(text, row["answer"], row["accepted"])
        by_force, by_itself = wanted, wanted
        if row["kind"] == "locality":
            _, by_force, by_itself, before = read(model, tokenizer, block, settings, None, row)
            right = spelt(said(text)) == spelt(said(before))
        found.setdefault(f"wild {METRICS[row['kind']]}", []).append(float(right))
        for readout, expected, given in (("tf", by_force, best), ("ar", by_itself, own)):
            agreed = [a == b for a, b in zip(expected, given, strict=True)]
            found.setdefault(f"{readout}_token {METRICS[row['kind']]}", []).append(sum(agreed) / len(agreed))
            found.setdefault(f"{readout}_exact {METRICS[row['kind']]}", []).append(float(all(agreed)))
    return {name: sum(each) / len(each) for name, each in found.items()}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(scores(*sys.argv[1:4]), indent=1) + "\n")

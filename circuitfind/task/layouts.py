"""The pair files of other tools: how each is recognised by its columns, and how a row becomes a row of ours.

A layout either reads a row into our columns, or refuses the file with the two lines of Python that convert it.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from circuitfind.errors import PairsError
from circuitfind.task.tables import AS_WRITTEN, HowRead, Table

FileRow = Mapping[str, Any]
YEARS = tuple(f"{year:02d}" for year in range(100))
MIB_COUNTERFACTUALS = ("s2_io_flip_counterfactual", "symbol_counterfactual", "random_counterfactual")
"""Of several counterfactual prompts in a row of MIB, those that its circuit track uses."""


@dataclass(frozen=True)
class FileLayout:
    """A layout of pair files.

    Attributes:
        name: what messages and the documentation call it.
        columns: columns that all must be there.
        read: from a row to a row of ours; None where the file does not hold the pairs themselves.
        fits: whether a table with these columns is of this layout.
        lacks: of a file that is refused, what it does not say.
        convert: the two lines of Python that convert it; ``READ`` stands for the call that reads its rows with pandas.
        reads: how its rows are read.
    """

    name: str
    columns: tuple[str, ...]
    read: Callable[[FileRow], dict[str, Any]] | None = None
    fits: Callable[[Table], bool] = lambda table: True
    lacks: str = ""
    convert: str = ""
    reads: HowRead = AS_WRITTEN


def in_our_columns(table: Table) -> Table:
    """The table with our columns, where it has a layout that is known; else as it is.

    Raises:
        PairsError: the layout is known and holds no pairs; or rows of it cannot be read (the first is named).
    """
    names = set(table.columns)
    layout = next((one for one in LAYOUTS if names.issuperset(one.columns) and one.fits(table)), None)
    if layout is None:
        return table
    if layout.read is None:
        lines = layout.convert.replace("READ", _reading(table.source))
        raise PairsError(f"{table.source} looks like {layout.name}: {layout.lacks}. Two lines convert it:\n{lines}")
    rows = []
    for row, place in zip(table.rows, table.places, strict=True):
        try:
            rows.append(layout.read(row) if isinstance(row, Mapping) else row)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise PairsError(f"{table.source}, {place}: not a row of {layout.name} ({_reason(error)})") from None
    columns = tuple(dict.fromkeys(name for row in rows if isinstance(row, Mapping) for name in row))
    return replace(table, columns=columns, rows=tuple(rows), layout=layout.name, reads=layout.reads)


def _reading(source: str) -> str:
    """The call of pandas that reads a file's rows."""
    suffix = source.rpartition(".")[2]
    more = {"jsonl": ", lines=True", "tsv": ', sep="\\t"'}.get(suffix, "")
    name = {"jsonl": "json", "json": "json", "csv": "csv", "tsv": "csv"}.get(suffix)
    return f'pandas.read_{name}("{source}"{more})' if name else "pandas.DataFrame(rows)"


def _reason(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def value_of(cell: Any) -> Any:
    """A cell, or what its text stands for where a spreadsheet or pandas has written a list or a record as text."""
    if not isinstance(cell, str) or cell.strip()[:1] not in ("[", "{", "("):
        return cell
    for read in (json.loads, ast.literal_eval):
        try:
            return read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return cell


def _mappings(table: Table) -> Iterable[FileRow]:
    return (row for row in table.rows if isinstance(row, Mapping))


# --- EAP-IG ------------------------------------------------------------------------------------------------------------


def _year_column(table: Table) -> str | None:
    """The column that holds two-digit years: no incorrect answers, prompts that end within a year, small numbers."""
    filled = [name for name in ("incorrect_idx", "incorrect") if any(row.get(name) for row in _mappings(table))]
    if filled or {"correct", "answer", "answers"} & set(table.columns):
        return None
    column = next((name for name in ("correct_idx", "label", "year") if name in table.columns), None)
    return column if column and any(_is_year(row, column) for row in _mappings(table)) else None


def _is_year(row: FileRow, column: str) -> bool:
    """Whether the prompt ends with a century, and the number has two digits or is a whole year."""
    digits = 4 if column == "year" else 2
    number = re.fullmatch(r"(\d+)(?:\.0)?", str(row.get(column)).strip())
    return bool(_century(row.get("clean")) and number and len(number[1]) <= digits)


def _century(clean: Any) -> str:
    """The two digits at the end of a prompt."""
    found = re.search(r"(?<!\d)(\d\d)$", clean) if isinstance(clean, str) else None
    return found[1] if found else ""


def _greater_than(row: FileRow) -> dict[str, Any]:
    """The years above the prompt's are correct, those up to it are not."""
    clean = row["clean"]
    column = next(name for name in ("correct_idx", "label", "year") if row.get(name) not in (None, ""))
    given, century = int(float(row[column])) % 100, _century(clean)
    if not century or f"{century}{given:02d}" not in re.findall(r"(?<!\d)\d{4}(?!\d)", clean):
        raise ValueError(
            f"{row[column]!r} in column {column!r} looks like a year, but no year of the prompt is "
            f"{century or '..'}{given:02d}; as a token id it would be some other text"
        )
    return {**_prompts(row), "correct": list(YEARS[given + 1 :]), "incorrect": list(YEARS[: given + 1])}


def _prompts(row: FileRow) -> dict[str, Any]:
    return {name: row[name] for name in ("clean", "corrupted", "labels", "answer_at") if name in row}


def _answer_columns(columns: Iterable[str]) -> tuple[str, str] | None:
    """The columns of ids of EAP-IG's other files: ``country_idx`` and ``corrupted_country_idx``, and the like."""
    names = list(columns)
    for wrong in names:
        stem = re.fullmatch(r"corrupted_(\w+)_idx", wrong)
        right = [name for name in (f"{stem[1]}_idx", f"clean_{stem[1]}_idx") if name in names] if stem else []
        if right:
            return right[0], wrong
    return None


def _with_answer_ids(row: FileRow) -> dict[str, Any]:
    columns = _answer_columns(row)
    if columns is None:
        raise ValueError("it has no two columns of token ids, such as country_idx and corrupted_country_idx")
    ours = _prompts(row)
    for field, column in zip(("correct", "incorrect"), columns, strict=True):
        ours[f"{field}_idx"] = row[column]
        text = column.removesuffix("_idx")
        if text in row:
            ours[field] = row[text]
    return ours


# --- others ------------------------------------------------------------------------------------------------------------


def _feature_circuits(row: FileRow) -> dict[str, Any]:
    return {
        "clean": row["clean_prefix"],
        "corrupted": row["patch_prefix"],
        "correct": row["clean_answer"],
        "incorrect": row["patch_answer"],
    }


def _counterfactual_column(row: FileRow) -> str | None:
    names = [name for name in row if name.endswith("_counterfactual")]
    known = [name for name in MIB_COUNTERFACTUALS if name in names]
    return known[0] if known else names[0] if len(names) == 1 else None


def _mib(row: FileRow) -> dict[str, Any]:
    column = _counterfactual_column(row)
    if column is None:
        raise ValueError("none of its counterfactuals is the one of MIB's circuit track; keep one column of them")
    other = value_of(row[column])
    ours = {"clean": row["prompt"], "corrupted": other["prompt"]}
    about = value_of(row.get("metadata"))
    if isinstance(about, Mapping) and "indirect_object" in about:
        return {**ours, "correct": about["indirect_object"], "incorrect": about["subject"]}
    return {**ours, "correct": _mib_answer(row), "incorrect": _mib_answer(other)}


def _mib_answer(row: FileRow) -> str:
    """The answer of a question with choices, or of a sum."""
    if row.get("choices") is None:
        return str(row["label"])
    choices, key = value_of(row["choices"]), row["answerkey"] if "answerkey" in row else row["answerKey"]
    answers = choices["label"] if isinstance(choices, Mapping) else choices
    return str(answers[int(key)])


def _causalgym(row: FileRow) -> dict[str, Any]:
    clean, corrupted = (_joined(row[side]) for side in ("base", "src"))
    return {"clean": clean, "corrupted": corrupted, "correct": row["base_label"], "incorrect": row["src_label"]}


def _joined(cell: Any) -> str:
    parts = value_of(cell)
    return parts if isinstance(parts, str) else "".join(parts)


def _blimp_one_prefix(row: FileRow) -> dict[str, Any]:
    if row.get("one_prefix_prefix"):
        return {
            "clean": row["one_prefix_prefix"],
            "correct": row["one_prefix_word_good"],
            "incorrect": row["one_prefix_word_bad"],
        }
    good, bad = row["sentence_good"].split(), row["sentence_bad"].split()
    at = next((at for at, (one, other) in enumerate(zip(good, bad, strict=False)) if one != other), 0)
    if not at:
        raise ValueError("its two sentences have no beginning in common, or are the same")
    return {"clean": " ".join(good[:at]), "correct": good[at].rstrip(".?!"), "incorrect": bad[at].rstrip(".?!")}


def _blimp_two_prefixes(row: FileRow) -> dict[str, Any]:
    return {
        "clean": row["two_prefix_prefix_good"],
        "corrupted": row["two_prefix_prefix_bad"],
        "correct": row["two_prefix_word"],
    }


def _is_true(cell: Any) -> bool:
    return str(cell).strip().lower() in ("true", "1", "1.0")


def _one_prefix(table: Table) -> bool:
    """Whether the first word that differs decides, which only the data set itself can say."""
    return bool(table.rows) and all(
        row.get("one_prefix_prefix") or _is_true(row.get("one_prefix_method")) for row in _mappings(table)
    )


def _counterfact(row: FileRow) -> dict[str, Any]:
    asked = value_of(row.get("requested_rewrite"))
    if isinstance(asked, Mapping):
        prompt, right, wrong = asked["prompt"], asked["target_true"]["str"], asked["target_new"]["str"]
        subject = asked["subject"]
    else:
        prompt, right, wrong, subject = (row[name] for name in ("prompt", "target_true", "target_false", "subject"))
    clean = prompt.replace("{}", subject)
    return {"clean": clean, "correct": right, "incorrect": wrong, "labels": _subject_label(clean, subject)}


def _subject_label(clean: str, subject: str) -> dict[str, str]:
    return {"subject": subject} if subject and subject in clean else {}


LAYOUTS: tuple[FileLayout, ...] = (
    FileLayout(
        "EAP-IG's greater-than file",
        ("clean",),
        _greater_than,
        fits=lambda table: _year_column(table) is not None,
        reads=HowRead("prob-diff", alone=True),
    ),
    FileLayout(
        "EAP-IG's IOI file",
        ("clean", "corrupted", "corrupted_hard", "correct_idx", "incorrect_idx"),
        dict,
        fits=lambda table: all(re.search(r" and .* to$", str(row.get("clean"))) for row in _mappings(table)),
        reads=HowRead(answers_in_prompt=True),
    ),
    FileLayout(
        "EAP-IG's files with answers for both prompts (gender-bias, fact-retrieval, hypernymy)",
        ("clean", "corrupted"),
        _with_answer_ids,
        fits=lambda table: _answer_columns(table.columns) is not None,
        reads=HowRead(ids_first=True),
    ),
    FileLayout(
        "EAP-IG's subject-verb agreement file",
        ("clean", "corrupted", "plural"),
        fits=lambda table: not {"correct", "answer", "answers", "correct_idx"} & set(table.columns),
        lacks="it says which number is right, and not which verbs have it",
        convert=(
            'rows, verbs = READ, {0: [" is", " was", " has"], 1: [" are", " were", " have"]}\n'
            "pairs = circuitfind.load_pairs(rows.assign(correct=rows.plural.map(verbs), "
            "incorrect=(1 - rows.plural).map(verbs)))"
        ),
    ),
    FileLayout(
        "a file of feature-circuits",
        ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer"),
        _feature_circuits,
    ),
    FileLayout(
        "a data set of MIB",
        ("prompt",),
        _mib,
        fits=lambda table: any(name.endswith("_counterfactual") for name in table.columns),
    ),
    FileLayout("a data set of CausalGym", ("base", "src", "base_label", "src_label"), _causalgym),
    FileLayout(
        "a BLiMP file of two prefixes and one word",
        ("two_prefix_prefix_good", "two_prefix_prefix_bad", "two_prefix_word"),
        _blimp_two_prefixes,
        fits=lambda table: not _one_prefix(table),
        reads=HowRead("nll"),
    ),
    FileLayout(
        "a BLiMP file of one prefix and two words",
        ("sentence_good", "sentence_bad"),
        _blimp_one_prefix,
        fits=_one_prefix,
    ),
    FileLayout(
        "a BLiMP file of whole sentences",
        ("sentence_good", "sentence_bad"),
        lacks="it does not say at which word the sentences are to be told apart",
        convert=(
            "words = READ[['sentence_good', 'sentence_bad']].map(str.split).values.tolist()\n"
            "pairs = circuitfind.load_pairs([{'clean': ' '.join(good[:at]), 'corrupted': ' '.join(bad[:at]), "
            "'correct': good[at].rstrip('.')} for good, bad in words "
            "for at in [1 + next(n for n in range(len(good)) if good[n] != bad[n])]])"
        ),
    ),
    FileLayout("CounterFact", ("requested_rewrite",), _counterfact),
    FileLayout("CounterFact (tracing)", ("prompt", "subject", "target_true", "target_false"), _counterfact),
    FileLayout(
        "a file of function vectors",
        ("input", "output"),
        fits=lambda table: not {"clean", "prompt"} & set(table.columns),
        lacks="it holds words and what becomes of them, and no prompts",
        convert=(
            "rows = READ[['input', 'output']].values.tolist()\n"
            "pairs = circuitfind.load_pairs([{'clean': f'Q: {a}\\nA: {b}\\n\\nQ: {c}\\nA: {d}\\n\\nQ: {e}\\nA:', "
            "'corrupted': f'Q: {a}\\nA: {d}\\n\\nQ: {c}\\nA: {b}\\n\\nQ: {e}\\nA:', 'correct': f} "
            "for (a, b), (c, d), (e, f) in zip(rows, rows[1:], rows[2:])])"
        ),
    ),
)
"""All layouts; the first that fits counts."""

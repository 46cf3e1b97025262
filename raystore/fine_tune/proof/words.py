"""What a proof says in sentences, for readers who have never heard of an embedding. Pure; the terminal and the page say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raystore.fine_tune.proof.changes import ENOUGH, Change

if TYPE_CHECKING:
    from raystore.fine_tune.proof.proof import Proof, Verdict

VERDICTS: dict[Verdict, str] = {"better": "Better", "not better": "Not better", "cannot tell": "Cannot tell"}
_NO_SHARE = ("silhouette",)
_BY_CHANCE = 0.025
_MOST_ROWS = 100  # times as many: beyond that "how many rows would do" helps nobody


def name_of(metric: str, k: int) -> str:
    """'P@10'."""
    return {
        "knn_accuracy": "kNN accuracy",
        "precision": f"P@{k}",
        "precision_unseen": f"P@{k} among unseen rows",
        "head_accuracy": "linear head accuracy",
        "silhouette": "silhouette",
        "oos_neighbours": "out-of-scope AUROC, by neighbours",
        "oos_head": "out-of-scope AUROC, by the head",
    }[metric]


def meaning(metric: str, k: int) -> str:
    """What the figure is, in one sentence without its name."""
    return {
        "knn_accuracy": f"How many rows get their right label by a vote of the {k} most similar training rows.",
        "precision": f"How many of the {k} most similar training rows have the row's own label, on average.",
        "precision_unseen": "The same among rows that training did not see: what searching new data will be like.",
        "head_accuracy": "How many rows a simple classifier names right that was fitted on the training rows' vectors.",
        "silhouette": "How compact the classes lie and how far apart: 1 is perfect, 0 is a tie with the next class.",
        "oos_neighbours": "How often a row that belongs to a class looks more at home than one that belongs to none.",
        "oos_head": "The same by how sure the simple classifier is.",
    }[metric]


def phrase(metric: str, k: int) -> str:
    """What is counted, as a subject: 'the rows named right by their 10 nearest neighbours'."""
    return {
        "knn_accuracy": f"the share of rows named right by their {k} nearest neighbours",
        "precision": f"the share of the {k} nearest neighbours that have the row's own label",
        "precision_unseen": f"the share of the {k} nearest unseen rows that have the row's own label",
        "head_accuracy": "the share of rows named right by a linear head",
        "silhouette": "the silhouette",
        "oos_neighbours": "how well out-of-scope rows are told apart by their neighbours (AUROC)",
        "oos_head": "how well out-of-scope rows are told apart by the head's confidence (AUROC)",
    }[metric]


def value(metric: str, number: float) -> str:
    """'93.1%', or '0.312' of a silhouette."""
    return f"{number:.3f}" if metric in _NO_SHARE else f"{number:.1%}"


def gain(metric: str, *changes: float) -> str:
    """'+1.3 points', '+0.6 to +2.0 points'; of a silhouette '+0.104'."""
    if metric in _NO_SHARE:
        return " to ".join(f"{change + 0.0:+.3f}" for change in changes)
    return " to ".join(f"{round(100 * change, 1) + 0.0:+.1f}" for change in changes) + " points"


def between(metric: str, c: Change) -> str:
    """'+0.6 to +2.0 points', or that there are too few rows for an interval."""
    return gain(metric, c.low, c.high) if c.low is not None and c.high is not None else "too few rows"


def difference(metric: str, c: Change) -> str:
    """'+1.3 points, 95% interval +0.6 to +2.0 points'."""
    told = gain(metric, c.value)
    return (
        f"{told}, 95% interval {between(metric, c)}" if c.low is not None else f"{told}, from too few rows for an interval"
    )


def headline(proof: Proof) -> str:
    """Better, not better or cannot tell: on how many rows, by how much, how sure."""
    verdict = proof.verdict
    on = f"on {proof.rows:,} rows that training did not see"
    if not proof.stated:
        return f"{VERDICTS[verdict]}: {on}, none of the figures that decide it was measured."
    if verdict == "better":
        name = proof.rose[0]
        c, verb = proof.metrics[name], "rose"
    elif proof.fell:
        name = proof.fell[0]
        c, verb = proof.metrics[name], "fell"
    else:
        name = proof.stated[0]
        c = proof.metrics[name]
        verb = "went" if c.value else "stayed"
    moved = f"from {value(name, c.before)} to {value(name, c.after)}" if c.value else f"at {value(name, c.after)}"
    said = f"{VERDICTS[verdict]}: {on}, {phrase(name, proof.k)} {verb} {moved} ({difference(name, c)})."
    return said if verdict != "not better" or proof.fell else f"{said} If there is a gain, it is below half a point."


def verdict_notes(proof: Proof) -> list[str]:
    """What belongs to the headline: what rose beside what fell, what more rows would tell, which figures were asked."""
    said = []
    if proof.fell and proof.rose:
        names = ", ".join(name_of(name, proof.k) for name in proof.rose)
        said.append(f"Other figures rose: {names}. A change is called better only where none of the stated figures fell.")
    if proof.verdict == "cannot tell" and proof.stated and (rows := rows_needed(proof)):
        said.append(f"To tell a difference so small, about {rows:,} rows would be needed.")
    if lost := sum(c.precision.fell for c in proof.per_class):
        said.append(f"{lost:,} of {len(proof.per_class):,} classes got worse, which is said below.")
    if proof.entities < proof.rows:
        said.append(
            f"The rows are those of {proof.entities:,} entities, which the intervals draw whole: rows of one entity are alike."
        )
    if proof.entities < ENOUGH:
        said.append(f"With {proof.entities} {'entity' if proof.entities == 1 else 'entities'} nothing can be concluded.")
    return said


def rows_needed(proof: Proof) -> int | None:
    """About how many rows would put 0 outside of the first stated figure's interval, whose width shrinks as their root grows."""
    c = proof.metrics[proof.stated[0]]
    if c.low is None or c.high is None or not c.value:
        return None
    times = ((c.high - c.low) / 2 / abs(c.value)) ** 2
    if not 1 < times < _MOST_ROWS:
        return None
    needed = proof.rows * times * 1.1
    step = 10 ** max(1, len(str(int(needed))) - 2)
    return int(-(-needed // step) * step)


def mark(c: Change) -> str:
    """'rose', 'fell' or 'cannot tell'."""
    return "rose" if c.rose else "fell" if c.fell else "cannot tell"


def worse_sentences(proof: Proof) -> list[str]:
    """How many classes got worse, and how much of that is chance."""
    classes = [c.precision for c in proof.per_class]
    if not classes:
        return []
    if all(c.low is None for c in classes):
        return [f"No class has {ENOUGH} rows here, so nothing can be said of single classes."]
    fell, rose = sum(c.fell for c in classes), sum(c.rose for c in classes)
    lower = sum(c.value < 0 for c in classes)
    p, n = name_of("precision", proof.k), len(classes)
    said = [
        f"Of {n:,} classes {rose:,} got better and {fell:,} got worse beyond what chance does with so few rows each "
        f"(95% interval of the difference in {p})."
    ]
    chance = _BY_CHANCE * sum(c.low is not None for c in classes)
    if fell:
        said.append(f"If no class had changed, about {max(chance, 0.1):.2g} would look worse so, by chance alone.")
    if lower > fell:
        several = lower - fell
        said.append(
            f"{several:,} {'more class has' if several == 1 else 'more classes have'} a lower {p}, within what chance can do."
        )
    thin = sum(c.low is None for c in classes)
    if thin:
        said.append(
            f"{thin:,} {'class has' if thin == 1 else 'classes have'} fewer than {ENOUGH} rows here, too few to tell."
        )
    return said


def mcnemar_said(proof: Proof) -> list[str]:
    """Of the rows that only one of the two names right."""
    said = []
    for name, m in proof.mcnemar.items():
        how = "exact" if m.exact else "chi-square"
        p = "p < 0.001" if m.p < 0.001 else f"p = {m.p:.3f}"
        said.append(
            f"{name_of(name, proof.k)}: rows right with {proof.after} alone {m.only_b:,}, with {proof.before} alone {m.only_a:,} "
            f"(McNemar, {how}: {p})."
        )
    return said


def where(proof: Proof) -> str:
    """'3,080 rows of tickets, test, in 77 classes; 9,000 training rows as neighbours'."""
    of = f" of {proof.data}" if proof.data else ""
    strange = f", and {proof.out_of_scope_rows:,} of '{proof.out_of_scope}'" if proof.out_of_scope_rows else ""
    classes = f", in {proof.n_classes:,} classes" if proof.n_classes < proof.rows else ""
    return (
        f"{proof.rows:,} rows{of} that training did not see{classes}{strange}; "
        f"their neighbours are sought among {proof.reference_rows:,} training rows"
    )


def left_out(proof: Proof) -> str:
    """The unseen rows that no figure holds, or nothing."""
    told = "; ".join(f"{count:,} with {reason}" for reason, count in proof.left_out.items())
    return f"Left out: {told}." if told else ""


def cut(item: str, most: int = 240) -> str:
    """An item in one line, shortened."""
    line = " ".join(item.split())
    return line if len(line) <= most else line[: most - 1] + "…"

"""Why a query or an expression would give other rows when it is run again: clock, session, chance, the order of rows.

Knows SQL and no table. What it cannot see is an order that leaves ties: ORDER BY a key that is not unique.
"""

from __future__ import annotations

from sqlglot import exp

_CLOCK = (exp.CurrentTimestamp, exp.CurrentDate, exp.CurrentTime, exp.Localtimestamp, exp.Localtime)
_CLOCK_NAMES = {
    "now", "today", "get_current_timestamp", "get_current_time", "transaction_timestamp", "current_localtimestamp",
    "current_localtime", "clock_timestamp", "statement_timestamp",
}  # fmt: skip
_SESSION_NAMES = {
    "txid_current", "getvariable", "current_setting", "current_query", "current_connection_id", "current_query_id",
    "current_transaction_id", "nextval", "currval", "getenv",
}  # fmt: skip
_CHANCE_NAMES = {"random", "setseed", "uuid", "uuidv4", "uuidv7", "gen_random_uuid"}
_RANKING = (
    exp.RowNumber, exp.Rank, exp.DenseRank, exp.PercentRank, exp.CumeDist, exp.Ntile, exp.FirstValue, exp.LastValue,
    exp.NthValue, exp.Lag, exp.Lead,
)  # fmt: skip
_PICKS_NAMES = {"arbitrary", "json_group_array", "json_group_object", "json_group_structure", "reservoir_quantile"}
_PICKS = (
    exp.AnyValue, exp.First, exp.Last, exp.GroupConcat, exp.ArrayAgg, exp.Mode, exp.ApproxTopK, exp.ApproxQuantile,
)  # fmt: skip
_BY_KEY_NAMES = {"arg_max_null", "arg_min_null", "arg_max_nulls_last", "arg_min_nulls_last"}
_SAID = {"anyvalue": "any_value", "groupconcat": "string_agg", "array_agg": "list", "group_concat": "string_agg"}
_ADVICE = {
    "any_value": "write min() or max()",
    "first": "write arg_min() by a unique key",
    "last": "write arg_max() by a unique key",
    "arbitrary": "write min() or max()",
    "mode": "write label='majority', or mode(x ORDER BY x), where the smallest of several wins",
    "approx_quantile": "write quantile_disc()",
    "reservoir_quantile": "write quantile_disc()",
}
_WHOLE = (exp.Filter, exp.Paren, exp.Alias, exp.Distinct, exp.ArrayDistinct, exp.ArrayFilter)  # leave a list a list
_ORDERLESS = (exp.ArraySort, exp.Length, exp.ArraySize, exp.ArrayContains)


def unrepeatable(query: exp.Expression, *, sets: bool = False) -> list[str]:
    """Why it would give other rows another time, as parts of sentences, each with what to write instead; empty where it would not.

    Args:
        sets: whether a list that is gathered whole is taken as a set, as labels are with task="labels".
    """
    names = {_name(n) for n in query.find_all(exp.Func)}
    clock = sorted(names & _CLOCK_NAMES) or [n.sql("duckdb").lower() for n in query.find_all(*_CLOCK)]
    if not clock and any(_name(n) == "age" and len(n.expressions) == 1 for n in query.find_all(exp.Anonymous)):
        clock = ["age() of one argument"]
    chance = sorted(names & _CHANCE_NAMES) or [n.sql("duckdb").lower() for n in query.find_all(exp.Rand, exp.Uuid)]
    problems = []
    if clock:
        problems.append(
            f"asks the clock ({clock[0]}), so it gives other rows tomorrow; write $as_of, the snapshot's moment"
        )
    if session := sorted(names & _SESSION_NAMES):
        problems.append(
            f"asks the session ({session[0]}()), so it gives other rows in another; write a parameter, $name, and params="
        )
    if chance or query.find(exp.TableSample):
        what = chance[0] if chance else "USING SAMPLE"
        problems.append(f"draws at random ({what}), so it cannot be made again; choose rows by hash(id)")
    found = [*_cut(query), *_ranked(query), *_picked(query, sets)]
    return problems + [f"hangs on the order of rows: {said}" for said in dict.fromkeys(found)]


def _name(node: exp.Expression) -> str:
    return (node.name if isinstance(node, exp.Anonymous) else str(node.sql_name())).lower()


def _cut(query: exp.Expression) -> list[str]:
    """LIMIT, OFFSET and DISTINCT ON of a select that has no order, and joins by position."""
    found = []
    for select in query.find_all(exp.Query):
        if _has_order(select) or (isinstance(select, exp.Subquery) and _has_order(select.this)):
            continue
        distinct = select.args.get("distinct")
        parts = {"LIMIT": select.args.get("limit"), "OFFSET": select.args.get("offset")}
        parts["DISTINCT ON"] = distinct.args.get("on") if isinstance(distinct, exp.Distinct) else None
        said = [name for name, part in parts.items() if part is not None]
        found += [f"{name} without ORDER BY; write ORDER BY a unique key, like id" for name in said]
    if any(str(join.args.get("method") or "").upper() == "POSITIONAL" for join in query.find_all(exp.Join)):
        found.append("POSITIONAL JOIN; join by a key")
    return found


def _has_order(node: exp.Expression) -> bool:
    """Whether an ORDER BY orders by something: in a select a number is a column's place, other constants are nothing."""
    order = node.args.get("order")
    return order is not None and any(not _is_constant(o.this) for o in order.expressions)


def _is_constant(node: exp.Expression) -> bool:
    return isinstance(node, (exp.Null, exp.Boolean)) or (isinstance(node, exp.Literal) and bool(node.is_string))


def _varies(node: exp.Expression) -> bool:
    return node.find(exp.Column, exp.Star) is not None


def _ranked(query: exp.Expression) -> list[str]:
    """Window functions and frames of rows that need an order and have none."""
    found = []
    for window in query.find_all(exp.Window):
        if isinstance(window.this, exp.Identifier) or _is_ordered(window):  # the first is a WINDOW clause's definition
            continue
        function = _bare(window.this)
        if isinstance(function, _RANKING) and _inner_order(function) is None:
            said = f"{_name(function)}() without ORDER BY in its OVER; write OVER (... ORDER BY a unique key)"
            found.append(said)
        elif (spec := window.args.get("spec")) is not None and str(spec.args.get("kind")).upper() == "ROWS":
            found.append("a frame of ROWS without ORDER BY in its OVER; write OVER (ORDER BY a unique key ROWS ...)")
    return found


def _is_ordered(window: exp.Window, depth: int = 0) -> bool:
    """Whether it has an order of its own, or that of the named window it is made of."""
    order = window.args.get("order")
    if order is not None and any(_varies(o.this) for o in order.expressions):
        return True
    base, select = window.args.get("alias"), window.find_ancestor(exp.Select)
    if base is None or select is None or depth > 9:
        return False
    named = [w for w in select.args.get("windows") or [] if w.this.name.lower() == base.name.lower()]
    return any(_is_ordered(w, depth + 1) for w in named)


def _bare(node: exp.Expression) -> exp.Expression:
    while isinstance(node, (exp.Filter, exp.IgnoreNulls, exp.RespectNulls)):
        node = node.this
    return node


def _inner_order(function: exp.Expression) -> exp.Expression | None:
    """The ORDER BY among the arguments, where it orders by something."""
    given = [function.this, *function.expressions] if isinstance(function.this, exp.Expression) else function.expressions
    orders = [o for argument in given for o in argument.find_all(exp.Order) if o.find_ancestor(exp.Func) is function]
    return next((o for o in orders if any(_varies(x.this) for x in o.expressions)), None)


def _picked(query: exp.Expression, sets: bool) -> list[str]:
    """Aggregates that give what comes first, or in the order it comes."""
    found = []
    for node in query.find_all(exp.Func):
        name = _name(node)
        name = _SAID.get(name, name)
        if isinstance(node, (exp.ArgMax, exp.ArgMin)) or name in _BY_KEY_NAMES:
            key = node.expression if isinstance(node, (exp.ArgMax, exp.ArgMin)) else (node.expressions or [None])[-1]
            if key is not None and not _varies(key):
                found.append(f"{name}() by a constant; write a column that is unique among the rows of an id")
            continue
        if not (isinstance(node, _PICKS) or name in _PICKS_NAMES) or _inner_order(node) is not None:
            continue
        window = node.find_ancestor(exp.Window)
        if window is not None and _bare(window.this) is node and _is_ordered(window):
            continue
        if isinstance(node, exp.ArrayAgg) and _as_a_set(node, sets):
            continue
        said = "" if name.endswith("quantile") else " without ORDER BY in it"
        found.append(f"{name}(){said}; {_ADVICE.get(name, f'write {name}(x ORDER BY a unique key)')}")
    return found


def _as_a_set(gathered: exp.Expression, sets: bool) -> bool:
    """Whether nothing looks at the order of the list."""
    node = gathered.parent
    while isinstance(node, _WHOLE):
        node = node.parent
    if isinstance(node, _ORDERLESS):
        return True
    return sets and (node is None or isinstance(node, exp.Select))

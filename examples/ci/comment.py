#!/usr/bin/env python3
"""Makes the comment on a pull request from what the steps of reproducibility.yml printed.

    comment.py [--plan plan.json] [--run events.jsonl] [--check verdicts.json] [--diff diff.json] > comment.md

Files that are missing or empty belong to steps that did not come to their turn; one that ends too early belongs to a step that was
killed, and is told of as far as it goes. Names, settings and values come from the pull
request, whose author may be anybody: they stand in code spans, where they can neither mention people nor draw anything.
"""

import argparse
import json
import pathlib

# A comment may have 65,536 characters; a line that finds it again needs some, too.
LONGEST_COMMENT = 65_000
MOST_ROWS = 40
LONGEST = 300


def code(value):
    """Any text as a code span on one line."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    if len(text) > LONGEST:
        text = text[:LONGEST] + "\N{HORIZONTAL ELLIPSIS}"
    # A table reads a vertical bar before it reads code.
    text = text.replace("|", "\N{BROKEN BAR}")
    fence = "`"
    while fence in text:
        fence += "`"
    return f"{fence} {text} {fence}" if "`" in text or not text.strip() else f"`{text}`"


def read(path):
    if path is None or not pathlib.Path(path).is_file():
        return None
    text = pathlib.Path(path).read_text(encoding="utf-8")
    return text if text.strip() else None


def document(text):
    """What a step printed as one object; nothing if it was killed while it printed."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def lines_of(text):
    """The events of a run, and whether the last one is whole."""
    lines = text.splitlines()
    events = [json.loads(line) for line in lines[:-1]]
    last = document(lines[-1])
    return (events, False) if last is None else (events + [last], True)


def cut(text):
    """As much as a comment takes: whole lines, so that no code span stays open."""
    if len(text) <= LONGEST_COMMENT:
        return text
    note = "\n\n(cut: the whole report is too long for a comment; the files of the job have all)"
    head = text[: LONGEST_COMMENT - len(note)]
    return head[: head.rfind("\n")] + note


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows[:MOST_ROWS]]
    if len(rows) > MOST_ROWS:
        lines.append(f"\n{len(rows) - MOST_ROWS} more")
    return "\n".join(lines)


def change(difference):
    place = f"{difference['what']} {difference['place']}".strip()
    return f"{code(place)}: {code(difference['from'])} \N{RIGHTWARDS ARROW} {code(difference['to'])}"


def why(deviation):
    if deviation["differences"]:
        return "; ".join(change(difference) for difference in deviation["differences"][:3])
    return "the same settings and inputs gave another result"


def of_plan(text):
    """Whether all is as locked, and a section."""
    if text is None:
        return None, "The lock was not compared: the plan could not be made. The log tells why."
    plan = document(text)
    if plan is None:
        return None, "The lock was not compared: what the plan printed ends too early."
    deviations = plan.get("deviations", [])
    if not deviations:
        return True, f"All {len(plan['stages'])} stages are keyed as locked."
    rows = [[code(deviation["stage"]), why(deviation)] for deviation in deviations]
    return False, f"{len(rows)} of {len(plan['stages'])} stages are not as locked. If that is meant: run, lock again, and commit the lock.\n\n" + table(["stage", "in what"], rows)


def of_run(text):
    if text is None:
        return None, "Nothing ran."
    events, is_whole = lines_of(text)
    failed = [event for event in events if event["event"] == "stage-failed"]
    last = events[-1] if events else {"event": None}
    lines = []
    is_finished = is_whole and last["event"] == "run-finished"
    if not is_finished:
        lines.append("The run was ended before it could tell its outcome" + (", in the middle of a line." if not is_whole else "."))
    else:
        outcomes = [stage["outcome"] for stage in last["stages"]]
        counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in sorted(set(outcomes)))
        lines.append(f"The run {last['outcome']}" + (f": {counts}." if counts else ": everything was cached."))
    for summary in (event for event in events if event["event"] == "remote-summary"):
        problem = f" Its problem: {code(summary['problem'])}." if summary["problem"] else ""
        lines.append(f"From the team's store: {summary['hits']} results, of which {summary['fetched']} were fetched ({summary['fetched_bytes']:,} bytes).{problem}")
    if failed:
        rows = []
        for event in failed:
            deviation = event.get("differs_from_lock")
            rows.append([code(event["stage"]), why(deviation) if deviation else code(event["message"])])
        lines.append("\n" + table(["stage that failed", "why"], rows))
    warned = {(event["stage"], event["message"]): None for event in events if event["event"] == "stage-warning"}
    if warned:
        lines.append("\n" + table(["stage that warned", "of what"], [[code(stage), code(message)] for stage, message in warned]))
    return last["outcome"] == "succeeded" if is_finished else None, "\n".join(lines)


def of_check(text):
    if text is None:
        return None, "No stage was computed again."
    rows, warned, all_well = [], [], True
    checked = document(text)
    if checked is None:
        return None, "What the check printed ends too early."
    for stage in checked["stages"]:
        warned += [[code(stage["name"]), code(message)] for message in stage["warnings"]]
        verdict = stage["verdict"]
        if verdict is None:
            all_well = False
            rows.append([code(stage["name"]), "no verdict", code(stage["failure"]["message"])])
            continue
        all_well = all_well and verdict["outcome"] != "differs"
        varied = sorted({what for run in verdict["runs"] for what in run["varied"]})
        told = f"{len(verdict['runs'])} runs, varied: {', '.join(varied)}"
        if verdict["difference"]:
            told = "; ".join(of_file(file) for file in verdict["difference"]["files"][:3])
        comparator = verdict["comparator"] if isinstance(verdict["comparator"], str) else json.dumps(verdict["comparator"])
        rows.append([code(stage["name"]), f"{verdict['outcome']} ({code(comparator)})", told])
    told = table(["stage computed again", "verdict", ""], rows)
    if warned:
        told += "\n\n" + table(["stage that warned when computed again", "of what"], warned)
    return all_well, told


def of_file(file):
    """A file that differs, down to the first element."""
    told = code(file["path"])
    for tensor in (file.get("tensors") or [])[:1]:
        told += f", tensor {code(tensor['name'])}"
        first = (tensor.get("elements") or {}).get("first")
        if first:
            told += f" at {code(first['index'])}: {code(first['one'])} and {code(first['other'])}"
            if first.get("meaning"):
                told += f" ({code(first['meaning'])})"
    for value in (file.get("values") or [])[:1]:
        told += f", {code(value['place'])}: {code(value['one'])} and {code(value['other'])}"
    if file.get("first_line"):
        line = file["first_line"]
        told += f", line {line['number']}: {code(line['one'])} and {code(line['other'])}"
    elif not file.get("tensors") and not file.get("values") and file.get("first_byte"):
        told += f", byte {file['first_byte']['offset']}"
    return told


def of_diff(text):
    if text is None:
        return None
    compared = document(text)
    stage = compared and compared["stage"]
    if stage is None:
        return None
    lines = [f"The first stage that differs although all it reads is the same: {code(stage['name'])}."]
    lines += [f"- {change(difference)}" for difference in stage["differences"]]
    if stage["files"]:
        lines += [f"- {of_file(file)}" for file in stage["files"]["files"][:10]]
    elif stage["problem"]:
        lines.append(f"- {code(stage['problem'])}")
    for cause in compared["also"]:
        changes = "; ".join(map(change, cause["differences"])) or "another result for the same settings and inputs"
        lines.append(f"- also {code(cause['name'])}: {changes}")
    values = [[code(metrics["name"]), code(value["place"]), code(value["one"]), code(value["other"])] for metrics in compared["metrics"] for value in metrics["values"]]
    if values:
        lines.append("\n" + table(["stage", "metric", "locked", "now"], values))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("plan", "run", "check", "diff"):
        parser.add_argument(f"--{option}")
    arguments = parser.parse_args()
    sections = [of_plan(read(arguments.plan)), of_run(read(arguments.run)), of_check(read(arguments.check))]
    verdicts = [verdict for verdict, _ in sections]
    if all(verdicts):
        head = ":white_check_mark: the results are as locked, and the sample is reproducible"
    elif False in verdicts:
        head = ":x: not as locked, or not reproducible"
    else:
        head = ":grey_question: not everything could be told"
    texts = [text for _, text in sections]
    diff = of_diff(read(arguments.diff))
    if diff:
        texts.insert(1, diff)
    print(cut("### twdag: " + head + "\n\n" + "\n\n".join(texts)))


if __name__ == "__main__":
    main()

"""Compare the ten insight tables with answers that were not made by pinsql, and lay out the records they are about.

    python3 tests/golden.py LAKE_DIR DATA_DIR SET              compare; exit status 1 on any difference
    python3 tests/golden.py --inputs DATA_DIR SET OUT_DIR      write OUT_DIR/{pin,geo,user}/partition=0/*.json

SET is `derived` (the first 2,525 events of the course's emulator, with their repeats) or `AdamBreeze1` (the records of
one student's notebook). DATA_DIR holds the samples and their answers, described in its SOURCES.md. Comparing needs the
packages `deltalake` and `pyarrow`; writing the inputs needs nothing.

Which reading of the question each table follows (names as in SOURCES.md; `2way` and `3way` give the same rows here,
because every post of both sets has its place and its user):

    table                                        derived                             AdamBreeze1
    popular_category_by_country                  Q1/ties                             top of Q1/full
    category_count_by_year                       Q2/full                             Q2/full
    popular_category_by_year                     Q2/ties                             top of Q2/full
    most_followed_user_by_country                Q3a/ties                            counted here from the raw records
    most_followed_country                        top of Q3c/max                      counted here from the raw records
    popular_category_by_age_group                Q4/ties/b1                          Q4/ties/b1
    median_followers_by_age_group                Q5/approx/b1                        Q5/approx/b1
    users_joined_by_year, people                 Q6/distinct (user_name,date_joined) counted here from the raw records
    users_joined_by_year, posts                  Q6/rows                             Q6/rows
    median_followers_by_join_year                Q7/approx                           Q7/approx
    median_followers_by_age_group_and_join_year  Q8/approx/b1                        Q8/approx/b1

The answers were made after duplicates were removed (`dedup`); AdamBreeze1 has none. The answers write `50+` where the
tables write `+50`.
"""

import csv
import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path

TOPICS = ("pin", "geo", "user")
EVENTS = 2525
RECORDS_PER_OBJECT = 50
COLUMNS = {
    "popular_category_by_country": ("country", "category", "category_count"),
    "category_count_by_year": ("post_year", "category", "category_count"),
    "popular_category_by_year": ("post_year", "category", "category_count"),
    "most_followed_user_by_country": ("country", "poster_name", "follower_count"),
    "most_followed_country": ("country", "follower_count"),
    "popular_category_by_age_group": ("age_group", "category", "category_count"),
    "median_followers_by_age_group": ("age_group", "median_follower_count"),
    "users_joined_by_year": ("post_year", "number_users_joined", "number_posts"),
    "median_followers_by_join_year": ("post_year", "median_follower_count"),
    "median_followers_by_age_group_and_join_year": ("age_group", "post_year", "median_follower_count"),
}


def read_lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def raw_records(data, name):
    """The records of a set in the order they were sent: {topic: [record, …]}."""
    if name != "derived":
        return {topic: read_lines(data / "golden" / name / f"raw_{topic}.jsonl") for topic in TOPICS}
    with open(data / "emulator-sequence.csv", encoding="utf-8") as file:
        sent = [int(line["row"]) for line in csv.DictReader(file)][:EVENTS]
    records = {}
    for topic in TOPICS:
        by_number = {row.get("ind", row.get("index")): row for row in read_lines(data / f"{topic}.jsonl")}
        records[topic] = [by_number[number] for number in sent]
    return records


# ---- inputs


def with_t(record):
    """The record with the other date form, `2020-08-28T03:52:47`, which half of the producers send."""
    changed = {key: record[key].replace(" ", "T") for key in ("timestamp", "date_joined") if key in record}
    return {**record, **changed}


def write_inputs(records, out):
    """Lay the records out as the Confluent S3 sink does: every fifth block one record an object, the rest in lines."""
    for topic, rows in records.items():
        folder = out / topic / "partition=0"
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(with_t(row) if at % 2 else row, ensure_ascii=False) for at, row in enumerate(rows)]
        for start in range(0, len(lines), RECORDS_PER_OBJECT):
            block = lines[start : start + RECORDS_PER_OBJECT]
            single = start // RECORDS_PER_OBJECT % 5 == 4
            for at in range(len(block)) if single else (0,):
                text = block[at] if single else "\n".join(block) + "\n"
                (folder / f"golden.{topic}+0+{start + at:010}.json").write_text(text, encoding="utf-8")
        print(f"{topic}: {len(lines)} records")


# ---- expected rows


def tops(rows):
    """The rows with the highest last value among those with the same first value, ties kept."""
    best = {}
    for row in rows:
        best[row[0]] = max(best.get(row[0], row[-1]), row[-1])
    return [row for row in rows if row[-1] == best[row[0]]]


def top_countries(rows):
    """(country, follower_count) of the rows (country, …, follower_count) with the most followers of all."""
    most = max(row[-1] for row in rows)
    return sorted({(row[0], row[-1]) for row in rows if row[-1] == most})


def joined(people, posts):
    """(year, people, posts) from two lists of (year, number)."""
    posts = dict(posts)
    return [(year, number, posts[year]) for year, number in people]


def followers(text):
    """A follower count of the raw pin, or None for its placeholder."""
    factor = {"k": 1000, "M": 1000000}.get(text[-1:], 1)
    digits = text.rstrip("kM")
    return int(digits) * factor if digits.isdigit() else None


def most_followed(records):
    """(country, poster_name, follower_count) of the most followed of each country, from raw records."""
    country = {row["ind"]: row["country"] for row in records["geo"]}
    seen = {}
    for pin in records["pin"]:
        key, count = (country[pin["index"]], pin["poster_name"]), followers(pin["follower_count"])
        if count is not None and pin["poster_name"] != "User Info Error":
            seen[key] = max(seen.get(key, 0), count)
    return tops([(*key, count) for key, count in seen.items()])


def people_by_year(records):
    """(year, people) from raw records; a person is a name and a joining date."""
    people = defaultdict(set)
    for user in records["user"]:
        name = f"{user['first_name']} {user['last_name']}"
        people[int(user["date_joined"][:4])].add((name, user["date_joined"]))
    return [(year, len(names)) for year, names in people.items()]


def expected_derived(data):
    with open(data / "golden" / "derived-replay-2525.json", encoding="utf-8") as file:
        answers = json.load(file)["results"]
    return {
        "popular_category_by_country": answers["Q1/ties/3way"],
        "category_count_by_year": answers["Q2/full/3way"],
        "popular_category_by_year": answers["Q2/ties/3way"],
        "most_followed_user_by_country": answers["Q3a/ties/3way"],
        "most_followed_country": top_countries(answers["Q3c/max/3way"]),
        "popular_category_by_age_group": answers["Q4/ties/b1/3way"],
        "median_followers_by_age_group": answers["Q5/approx/b1/3way"],
        "users_joined_by_year": joined(answers["Q6/distinct (user_name,date_joined)/usr"], answers["Q6/rows/usr"]),
        "median_followers_by_join_year": answers["Q7/approx/3way"],
        "median_followers_by_age_group_and_join_year": answers["Q8/approx/b1/3way"],
    }


def expected_of_student(data, name):
    with open(data / "golden" / name / "expected.json", encoding="utf-8") as file:
        answers = {answer["question"]: answer["rows"] for answer in json.load(file)["expected"]}
    records = raw_records(data, name)
    most = most_followed(records)
    return {
        "popular_category_by_country": tops(answers["Q1"]),
        "category_count_by_year": answers["Q2"],
        "popular_category_by_year": tops(answers["Q2"]),
        "most_followed_user_by_country": most,
        "most_followed_country": top_countries(most),
        "popular_category_by_age_group": answers["Q4"],
        "median_followers_by_age_group": answers["Q5"],
        "users_joined_by_year": joined(people_by_year(records), answers["Q6"]),
        "median_followers_by_join_year": answers["Q7"],
        "median_followers_by_age_group_and_join_year": answers["Q8"],
    }


# ---- comparing


def normal(row):
    """A row as a tuple in which equal answers are equal: whole floats as integers, one name for the oldest group."""
    plain = (int(value) if isinstance(value, float) and value.is_integer() else value for value in row)
    return tuple("+50" if value == "50+" else value for value in plain)


def differences(columns, rows, want_columns, want):
    """The lines that say how the rows of one table differ from the wanted ones; none where they are equal."""
    if tuple(columns) != tuple(want_columns):
        return [f"columns {list(columns)}, expected {list(want_columns)}"]
    have, want = Counter(map(normal, rows)), Counter(map(normal, want))
    lines = [f"missing    {row}" for row in sorted((want - have).elements(), key=repr)[:5]]
    return lines + [f"unexpected {row}" for row in sorted((have - want).elements(), key=repr)[:5]]


def compare(lake, expected):
    """Print one line per table; the number of tables that differ."""
    from deltalake import DeltaTable

    wrong = 0
    for name, want in expected.items():
        try:
            table = DeltaTable(str(lake / name)).to_pyarrow_table()
            rows = list(zip(*(column.to_pylist() for column in table.columns)))
            lines = differences(table.column_names, rows, COLUMNS[name], want)
        except Exception as error:  # a table that is not there or cannot be read is a difference like any other
            lines = [f"{type(error).__name__}: {error}"]
        print(f"{'differs' if lines else 'ok':8} {name} ({len(want)} rows expected)")
        print("".join(f"         {line}\n" for line in lines), end="")
        wrong += bool(lines)
    return wrong


def main(arguments):
    if len(arguments) == 4 and arguments[0] == "--inputs":
        write_inputs(raw_records(Path(arguments[1]), arguments[2]), Path(arguments[3]))
        return 0
    if len(arguments) != 3 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    lake, data, name = Path(arguments[0]), Path(arguments[1]), arguments[2]
    expected = expected_derived(data) if name == "derived" else expected_of_student(data, name)
    return 1 if compare(lake, expected) else 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    # Not by way of the interpreter's teardown: `leave` in readers/deltalake_reader.py says why.
    sys.stdout.flush()
    os._exit(status)

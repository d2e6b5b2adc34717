"""Builds src/vlmlab/data/made/tables.jsonl, the real tables that charts are drawn from.

    pip download --no-deps statsmodels==0.15.0
    python scripts/build_tables.py statsmodels-0.15.0-*.whl

The tables are those of the package's data sets that it says are in the public domain, with their columns' names spelled
out. Quarters become years (their fourth quarter), and sea temperatures are told both by year and by month.
"""

import csv
import io
import json
import sys
import zipfile
from pathlib import Path

OUT = Path(__file__).resolve().parents[1] / "src/vlmlab/data/made/tables.jsonl"
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]

# What a column is called, its unit, and by how much its numbers are divided.
NAMES = {
    "longley": {
        "TOTEMP": ("total employment", "thousands", 1),
        "GNP": ("gross national product", "billion dollars", 1000),
        "UNEMP": ("number of unemployed", "thousands", 1),
        "ARMED": ("size of the armed forces", "thousands", 1),
        "POP": ("population", "thousands", 1),
    },
    "statecrime": {
        "hs_grad": ("share of high school graduates", "%", 1),
        "poverty": ("poverty rate", "%", 1),
        "single": ("share of single parent families", "%", 1),
        "urban": ("share of city dwellers", "%", 1),
    },
    "macrodata": {
        "realgdp": ("gross domestic product", "billion dollars of 2005", 1),
        "realcons": ("consumption", "billion dollars of 2005", 1),
        "realinv": ("private investment", "billion dollars of 2005", 1),
        "realgovt": ("government spending", "billion dollars of 2005", 1),
        "realdpi": ("disposable income", "billion dollars of 2005", 1),
        "cpi": ("consumer price index", "1982-84 = 100", 1),
        "tbilrate": ("treasury bill rate", "%", 1),
        "unemp": ("unemployment rate", "%", 1),
    },
    "nile": {"volume": ("flow of the Nile", "hundred million cubic metres", 1)},
    "sunspots": {"SUNACTIVITY": ("number of sunspots", "", 1)},
}
TITLES = {
    "longley": ("The economy of the United States", "year", "YEAR"),
    "statecrime": ("The United States in 2009", "state", "state"),
    "macrodata": ("The economy of the United States", "year", "year"),
    "nile": ("The Nile at Aswan", "year", "year"),
    "sunspots": ("Activity of the sun", "year", "YEAR"),
}


def main(wheel: str) -> None:
    """Write the tables that the package `wheel` holds."""
    tables = []
    with zipfile.ZipFile(wheel) as package:

        def rows(name: str) -> list[dict[str, str]]:
            text = package.read(f"statsmodels/datasets/{name}/{name}.csv").decode()
            told = package.read(f"statsmodels/datasets/{name}/data.py").decode()
            assert "public domain" in told.split("TITLE")[0].lower(), f"{name} is not in the public domain"
            return list(csv.DictReader(io.StringIO(text)))

        for name, columns in NAMES.items():
            found = [row for row in rows(name) if row.get("quarter", "4") == "4"]
            title, key, label = TITLES[name]
            told = [
                {"name": said, "unit": unit, "values": [round(float(row[column]) / by, 4) for row in found]}
                for column, (said, unit, by) in columns.items()
            ]
            labels = [row[label].strip() for row in found]
            tables.append({"source": name, "title": title, "key": key, "labels": labels, "columns": told})

        found = rows("elnino")
        title, unit = "Sea surface temperature off Peru", "degrees Celsius"
        short = [month[:3].upper() for month in MONTHS]
        by_month = [
            {"name": f"sea temperature in {month}", "unit": unit, "values": [float(row[column]) for row in found]}
            for month, column in zip(MONTHS, short, strict=True)
        ]
        by_year = [
            {"name": f"sea temperature in {row['YEAR']}", "unit": unit, "values": [float(row[c]) for c in short]}
            for row in found
        ]
        years = [row["YEAR"] for row in found]
        tables.append({"source": "elnino", "title": title, "key": "year", "labels": years, "columns": by_month})
        tables.append({"source": "elnino", "title": title, "key": "month", "labels": MONTHS, "columns": by_year})
    OUT.write_text("".join(json.dumps(table) + "\n" for table in tables), encoding="utf-8")
    print(f"{OUT.name}: {len(tables)} tables, {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])

"""The table lane for texts, by the files that others have tripped over."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from core.errors import ProcessorDied, Unprocessable
from tests.kit import lanes
from tests.kit.lanes import FILES, Result

TYPES: dict[str, dict[str, str]] = {
    "csv-spectrum--newlines_crlf.csv": {"a": "text", "b": "bigint", "c": "bigint"},
    "csvkit--mac_newlines.csv": {"a": "text", "b": "bigint", "c": "bigint"},
    "csvkit--test_utf16_big.csv": {"a": "bigint", "b": "bigint", "c": "text"},
    "csvkit--test_latin1.csv": {"a": "bigint", "b": "bigint", "c": "text"},
    "csvkit--blanks.csv": dict.fromkeys("abcdef", "text"),
    "csvkit--test_no_leading_zeroes.csv": {"a": "text", "b": "text", "c": "decimal(2,1)"},
    "csvkit--test_numeric_date_format.csv": {"a": "bigint"},
    "frictionless--blank-headers.csv": {"id": "bigint", "column_2": "text", "age": "bigint"},
    "duckdb--big_number.csv": {"bignumber": "decimal(19,2)"},
    "duckdb--mixed_decimal.csv": {"A": "bigint", "B": "text"},
    "duckdb--borked_date.csv": {"a": "text"},
    "duckdb--integer_exponent.csv": {"a": "bigint", "b": "bigint", "c": "text"},
    "duckdb--phonenumbers.csv": {"phone": "text"},
    "duckdb--timestamp_timezone.csv": {"time": "text", "description": "text"},
    "duckdb--issue_811.csv": {
        "TestInteger": "bigint",
        "TestDouble": "decimal(2,1)",
        "TestDate": "text",
        "TestText": "text",
    },
}
RECORDS = {
    "csv-spectrum--newlines_crlf.csv": (3, 3, 0, 0),
    "csv-spectrum--location_coordinates.csv": (1, 1, 0, 0),
    "csvkit--mac_newlines.csv": (2, 2, 0, 0),
    "csvkit--test_utf16_big.csv": (2, 2, 0, 0),
    "duckdb--borked_date.csv": (2069, 2069, 0, 0),
    "duckdb--issue_811.csv": (4494, 4494, 0, 0),
    "duckdb--comma_decimal_null.csv": (8, 8, 0, 0),
    "qsv--FCOServices_TransparencySpend_May2011.csv": (4, 4, 0, 0),
    "qsv--spendover25kdownloadSep.csv": (189, 189, 0, 0),
    "qsv--iwfg09_Phos_river_200911.csv": (27, 24, 0, 3),
    "messytables--spanish_chars.csv": (116, 115, 0, 1),
    "messytables--utf-16le_encoded.csv": (327, 327, 0, 0),
}
REJECTED = {
    "frictionless--defective-rows.csv": (0, 2, "100 % of the rows were rejected (10 % are allowed)."),
    "csv-detective--c_test_file.csv": (0, 1, "100 % of the rows were rejected (10 % are allowed)."),
    "duckdb--csv_quoted_newline_odd.csv": (1, 1, "50 % of the rows were rejected (10 % are allowed)."),
    "messytables--complex.csv": (2, 1, "33.3 % of the rows were rejected (10 % are allowed)."),
    "messytables--weird_head_padding.csv": (60, 16, "21.1 % of the rows were rejected (10 % are allowed)."),
}
ENCODINGS = {
    "csvkit--test_utf16_big.csv": {"name": "utf-16", "how": "mark"},
    "csvkit--test_latin1.csv": {"name": "windows-1252", "how": "assumed", "first_odd_byte": 16},
    "messytables--spanish_chars.csv": {"name": "windows-1252", "how": "assumed", "first_odd_byte": 52},
    "messytables--utf-16le_encoded.csv": {"name": "utf-16", "how": "mark"},
    "qsv--spendover25kdownloadSep.csv": {"name": "utf-8-sig", "how": "mark"},
    "duckdb--borked_date.csv": {"name": "utf-8", "how": "found"},
}


def made(name: str, folder: Path, env: dict[str, str] | None = None, **values: Any) -> Result:
    return lanes.table(FILES / name, folder, env, **values)


def counts(result: Result) -> tuple[int, ...]:
    records = result.report["records"]
    return tuple(records[name] for name in ("in", "out", "rejected", "blank"))


@pytest.mark.parametrize("name", TYPES)
def test_a_column_is_typed_only_where_every_cell_can_be_written_again(name: str, tmp_path: Path) -> None:
    assert made(name, tmp_path).types == TYPES[name]


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_is_accounted_for(name: str, tmp_path: Path) -> None:
    result = made(name, tmp_path)
    assert counts(result) == RECORDS[name]
    assert len(result.rows()) == RECORDS[name][1]
    assert result.report["proof"]["records"] == "equal"


@pytest.mark.parametrize("name", REJECTED)
def test_too_many_rejected_rows_are_an_error_with_report_and_rows(name: str, tmp_path: Path) -> None:
    out, rejected, error = REJECTED[name]
    result = made(name, tmp_path)
    assert result.answer.error == error
    assert counts(result)[1:3] == (out, rejected)
    assert {output["output"] for output in result.answer.outputs} == {"report", "rejected"}
    with (result.folder / "rejected.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == rejected


@pytest.mark.parametrize("name", ENCODINGS)
def test_the_encoding_is_known_or_marked_as_assumed(name: str, tmp_path: Path) -> None:
    assert made(name, tmp_path).report["encoding"] == ENCODINGS[name]


def test_a_crlf_in_quotes_is_kept(tmp_path: Path) -> None:
    result = made("csv-spectrum--newlines_crlf.csv", tmp_path)
    assert result.texts("a")[1] == "Once upon \r\na time"
    assert result.report["newlines"] == {"CRLF": 5}


def test_replacement_characters_are_kept_and_told(tmp_path: Path) -> None:
    assert "replacement characters: 2" in made("csv-spectrum--location_coordinates.csv", tmp_path).report["notes"]


def test_only_an_empty_cell_is_null(tmp_path: Path) -> None:
    [row] = made("csvkit--blanks.csv", tmp_path).rows()
    assert row == (None, "NA", "N/A", "NONE", "NULL", ".")


def test_an_encoding_by_hint(tmp_path: Path) -> None:
    greek = made("frictionless--table-infer-iso-8859-7.csv", tmp_path / "greek", encoding="iso-8859-7")
    assert greek.texts("name")[0] == "Λεωνιδας"
    japanese = made("duckdb--shift_jis.csv", tmp_path / "japanese", encoding="shift_jis")
    assert list(japanese.types) == ["名前", "年齢"]
    with pytest.raises(Unprocessable, match=r"neither UTF-8 nor windows-1252 \(byte 29\); say its encoding"):
        made("duckdb--shift_jis.csv", tmp_path / "unknown")
    with pytest.raises(Unprocessable, match="The file is not in ascii"):
        made("duckdb--shift_jis.csv", tmp_path / "wrong", encoding="ascii")


def test_a_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert list(lanes.text_table("\ufeffa,b\n1,2\n", tmp_path / "found").types) == ["a", "b"]
    hinted = lanes.text_table("\ufeffa,b\n1,2\n", tmp_path / "hinted", encoding="utf-8")
    assert list(hinted.types) == ["a", "b"]


def test_a_large_decimal_is_exact(tmp_path: Path) -> None:
    assert made("duckdb--big_number.csv", tmp_path).texts("bignumber") == ["82544000000000707.52"]


def test_day_and_month_that_nobody_can_tell_apart_stay_text(tmp_path: Path) -> None:
    plain = made("duckdb--issue_811.csv", tmp_path / "plain")
    assert "ambiguous" in plain.report["columns"][2]["why"]
    hinted = made("duckdb--issue_811.csv", tmp_path / "hinted", date_order="dmy")
    assert hinted.types["TestDate"] == "date"
    assert hinted.texts("TestDate")[1] == "2012-02-01"


def test_decimal_commas_and_groups_by_evidence(tmp_path: Path) -> None:
    italian = made("duckdb--comma_decimal_null.csv", tmp_path / "italian")
    assert italian.types["FINANZ_UE"] == "decimal(8,2)"
    assert italian.types["COD_OB_TEMATICO"] == "text"
    english = made("qsv--FCOServices_TransparencySpend_May2011.csv", tmp_path / "english")
    assert english.types["Amount (excluding VAT)"] == "decimal(7,2)"
    assert english.texts("Amount (excluding VAT)")[0] == "47072.02"
    assert english.types["Payment Date"] == "text"


def test_spaces_keep_numbers_text_unless_they_are_trimmed(tmp_path: Path) -> None:
    name, column = "qsv--spendover25kdownloadSep.csv", "Amount in Sterling"
    plain = made(name, tmp_path / "plain")
    assert plain.types[column] == plain.types["Transaction No"] == "text"
    trimmed = made(name, tmp_path / "trimmed", trim=True)
    assert trimmed.types[column].startswith("decimal(")
    assert trimmed.report["cleaning"]["trim"]["count"] >= 189


def test_titles_inside_the_width_are_rows_and_no_header_is_claimed(tmp_path: Path) -> None:
    name = "qsv--iwfg09_Phos_river_200911.csv"
    plain = made(name, tmp_path / "plain").report
    assert plain["header"]["line"] is None
    hinted = made(name, tmp_path / "hinted", header=16)
    assert list(hinted.types)[:2] == ["Location", "1995"]


def test_a_padded_head_is_preamble_and_footnotes_are_rejected(tmp_path: Path) -> None:
    name = "messytables--weird_head_padding.csv"
    strict = made(name, tmp_path / "strict")
    assert strict.report["header"] == {"line": 12, "how": "found"}
    assert strict.report["records"]["preamble"] == 7
    assert strict.report["records"]["blank"] == 10
    with (strict.folder / "rejected.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["line"] == "74"
    lenient = made(name, tmp_path / "lenient", {"TABLE_MAX_REJECTED_PERCENT": "25"})
    assert not lenient.answer.error
    assert len(lenient.rows()) == 60


def test_amounts_of_differing_scales_are_text_but_by_value_decimals(tmp_path: Path) -> None:
    name, column = "messytables--spanish_chars.csv", "Gasto total 2011"
    exact = made(name, tmp_path / "exact")
    assert exact.types[column] == "text"
    assert "Descripción" in exact.types
    value = made(name, tmp_path / "value", typing="value")
    assert value.types[column].startswith("decimal(")
    assert value.texts(column)[0] == "229932.50"
    assert any("respelled" in note for column in value.report["columns"] for note in column["notes"])


def test_typing_text_types_nothing(tmp_path: Path) -> None:
    assert set(made("duckdb--issue_811.csv", tmp_path, typing="text").types.values()) == {"text"}


CASES: dict[str, tuple[str, dict[str, str]]] = {
    "leading zeros": ("a\n007\n8\n", {"a": "text"}),
    "a plus": ("a\n+1\n2\n", {"a": "text"}),
    "minus zero": ("a\n-0\n1\n", {"a": "text"}),
    "an exponent": ("a\n1E-7\n2\n", {"a": "text"}),
    "a space": ("a\n 1\n2\n", {"a": "text"}),
    "two scales": ("a\n1.50\n1.5\n", {"a": "text"}),
    "doubles": ("a\n1.5\n2.25\n", {"a": "double"}),
    "doubles, whole ones bare": ("a\n1.5\n2\n", {"a": "double"}),
    "doubles, some with .0": ("a\n1.5\n2\n3.0\n", {"a": "text"}),
    "past 64 bits": ("a\n9223372036854775807\n9223372036854775808\n", {"a": "decimal(19,0)"}),
    "past 38 digits": (f"a\n{'9' * 39}\n", {"a": "text"}),
    "underscores": ("a\n1_000\n", {"a": "text"}),
    "hexadecimal": ("a\n0x10\n", {"a": "text"}),
    "infinity": ("a\ninf\nnan\n", {"a": "text"}),
    "infinite dates": ("a\ninfinity\nepoch\n", {"a": "text"}),
    "a double that a decimal would cut": ("a\n0.30000000000000004\n0.1\n", {"a": "double"}),
    "booleans": ("a\ntrue\nfalse\n", {"a": "boolean"}),
    "booleans of two spellings": ("a\ntrue\nFALSE\n", {"a": "text"}),
    "dates": ("a\n2026-01-31\n2026-02-01\n", {"a": "date"}),
    "no dates": ("a\n2026-02-30\n", {"a": "text"}),
    "German dates": ("a\n31.01.2026\n01.02.2026\n", {"a": "date"}),
    "American dates": ("a\n1/31/2026\n2/1/2026\n", {"a": "date"}),
    "padded and not": ("a\n01/31/2026\n2/1/2026\n", {"a": "text"}),
    "moments": ("a\n2026-01-31 10:00:00\n2026-01-31 11:30:00\n", {"a": "timestamp"}),
    "moments with milliseconds": ("a\n2026-01-31T10:00:00.123\n", {"a": "timestamp"}),
    "moments with zone": (
        "a\n2026-01-31T10:00:00+02:00\n2026-02-01T10:00:00+02:00\n",
        {"a": "timestamp with time zone"},
    ),
    "moments in UTC": ("a\n2026-01-31T10:00:00Z\n", {"a": "timestamp with time zone"}),
    "two zones": ("a\n2026-01-31T10:00:00Z\n2026-01-31T10:00:00+01:00\n", {"a": "text"}),
    "times": ("a\n10:00:00\n23:59:59\n", {"a": "time"}),
    "short times": ("a\n10:00\n23:59\n", {"a": "time"}),
    "no times": ("a\n10:00\n25:00\n", {"a": "text"}),
    "groups": ("a\n1,234,567\n12\n", {"a": "decimal(7,0)"}),
    "one group, which may be a decimal": ("a\n1,234\n5,678\n", {"a": "text"}),
    "points that may be groups": ("a;b\n1.234;x\n5.678;y\n", {"a": "decimal(4,3)", "b": "text"}),
    "Swiss groups": ("a\n1'234.50\n99.00\n", {"a": "decimal(6,2)"}),
    "groups that are not three": ("a\n1,23,456\n", {"a": "text"}),
    "all the same header": ("a,a,A\n1,2,3\n", {"a": "bigint", "a_2": "bigint", "A_3": "bigint"}),
    "the lake's own column": ("ingest_date,b\n1,2\n", {"ingest_date_2": "bigint", "b": "bigint"}),
    "numbers only": ("1,2\n3,4\n", {"column_1": "bigint", "column_2": "bigint"}),
    "a NUL": ("a\nx\0y\n", {"a": "text"}),
    "a sep line": ("sep=|\na|b\n1|2\n", {"a": "bigint", "b": "bigint"}),
    "tabs": ("a\tb\n1\t2\n", {"a": "bigint", "b": "bigint"}),
    "backslashes": ('a,b\n"x \\"y\\", z",1\n"q",2\n', {"a": "text", "b": "bigint"}),
    "an odd name": ('"a ""b"" \'c\'",d\n1,2\n', {"a \"b\" 'c'": "bigint", "d": "bigint"}),
}


def quote(cells: str) -> str:
    return '"' + cells.replace('"', '""') + '"'


@pytest.mark.parametrize("case", CASES)
def test_a_type_is_exact_or_it_is_text(case: str, tmp_path: Path) -> None:
    text, types = CASES[case]
    if len(types) == 1 and "," in text:
        head, *rest = text.splitlines()
        text = "\n".join([head, *map(quote, rest), ""])
    assert lanes.text_table(text, tmp_path).types == types


def test_an_unclosed_quote_costs_its_own_line_alone(tmp_path: Path) -> None:
    rows = "".join(f"{number},x\n" for number in range(50))
    result = lanes.text_table(f'a,b\n{rows}51,"open\n52,y\n53,z\n', tmp_path)
    assert counts(result) == (53, 52, 1, 0)
    with (result.folder / "rejected.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"line": "52", "reason": "a quote that is not closed", "raw": '51,"open'}
        ]


def test_further_cells_that_are_empty_are_left_out_and_counted(tmp_path: Path) -> None:
    result = lanes.text_table("a,b\n1,2,,\n3,4\n", tmp_path)
    assert counts(result) == (2, 2, 0, 0)
    assert "trimmed rows: 1" in result.report["notes"]


def test_pinned_types_reject_what_does_not_fit_and_keep_values(tmp_path: Path) -> None:
    rows = "".join(f"{number}.50,{number:05}\n" for number in range(40))
    text = f"amount,zip\n{rows}7.5,00007\nmany,00008\n"
    result = lanes.text_table(text, tmp_path, columns={"amount": "decimal(18,2)", "zip": "text"})
    assert result.types == {"amount": "decimal(18,2)", "zip": "text"}
    assert counts(result) == (42, 41, 1, 0)
    assert result.texts("amount")[-1] == "7.50"
    with (result.folder / "rejected.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert "amount is no decimal(18,2)" in row["reason"]
    assert "many" in row["raw"]


def test_what_looks_like_a_formula_is_kept_and_counted(tmp_path: Path) -> None:
    result = lanes.text_table("a,b\n=1+1,-5\n@SUM(A1),3\nplain,4\n", tmp_path)
    assert result.texts("a") == ["=1+1", "@SUM(A1)", "plain"]
    assert [column["notes"] for column in result.report["columns"]] == [["cells like formulas: 2"], []]


def test_cleaning_is_opt_in_and_counted(tmp_path: Path) -> None:
    text = "Name of It,n,empty\n x ,NA,\ny,2,\ny,2,\nTotal,4,\n"
    plain = lanes.text_table(text, tmp_path / "plain")
    assert plain.report["cleaning"] == {}
    assert len(plain.rows()) == 4
    steps: dict[str, Any] = {
        "trim": True,
        "null_words": ["NA"],
        "drop_duplicates": True,
        "drop_empty_columns": True,
        "footer": "drop",
        "names": "snake",
    }
    cleaned = lanes.text_table(text, tmp_path / "cleaned", **steps)
    assert cleaned.types == {"name_of_it": "text", "n": "bigint"}
    assert cleaned.rows() == [("x", None), ("y", 2)]
    assert {name: step["count"] for name, step in cleaned.report["cleaning"].items()} == {
        "trim": 1,
        "null_words": 1,
        "drop_duplicates": 1,
        "footer": 1,
    }
    assert cleaned.report["dropped_columns"] == ["empty"]


def test_a_header_alone_is_an_empty_table(tmp_path: Path) -> None:
    result = lanes.text_table("a,b\n", tmp_path)
    assert result.rows() == []
    assert list(result.types) == ["a", "b"]


REFUSED = {
    "nothing": (b"", "The table is empty."),
    "one long line": (b"a" * (5 << 20), "Line 1 has more than 4 MiB."),
    "a long cell": (b"a\n" + b"b" * (2 << 20) + b"\n", "A cell in line 2 has more than 1 MiB."),
    "many columns": (b"," * 3000 + b"\n", "The table has 3001 columns, 2000 are processed at most."),
    "many quotes": (b"a,b\n" + b'"x,1\n' * 500_000, "The quotes of more than 1000 rows do not match."),
    "a zip": (b"PK\3\4" + b"\0" * 100, "The workbook is damaged."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_table_or_over_a_budget_says_so(case: str, tmp_path: Path) -> None:
    content, told = REFUSED[case]
    with pytest.raises((Unprocessable, ProcessorDied)) as error:
        lanes.text_table(content, tmp_path)
    assert error.value.detail == told


def test_the_cells_are_budgeted(tmp_path: Path) -> None:
    with pytest.raises(Unprocessable, match="more than 100 cells"):
        lanes.text_table("a,b\n" + "1,2\n" * 20_000, tmp_path, {"TABLE_MAX_CELLS": "100"})


def test_the_proof_is_of_what_was_written(tmp_path: Path) -> None:
    """The digest in the report changes with a single cell."""
    one = lanes.text_table("a\nx\ny\n", tmp_path / "one").report["proof"]
    other = lanes.text_table("a\nx\nz\n", tmp_path / "other").report["proof"]
    assert one["cells"] == other["cells"] == 2
    assert one["digest"] != other["digest"]

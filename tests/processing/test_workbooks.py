"""The table lane for workbooks, by the files that others have tripped over, and bombs."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from core.errors import ProcessorDied, Unprocessable
from tests.kit import lanes
from tests.kit.lanes import FILES, Result

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"


def made(name: str, folder: Path, **values: Any) -> Result:
    return lanes.table(FILES / name, folder, **values)


def workbook(path: Path, sheet: str | Iterable[bytes], strings: str = "", styles: str = "") -> Path:
    """A workbook of one sheet, as small as Excel would still open it."""
    kinds = {"worksheet": "worksheets/sheet1.xml", "sharedStrings": "sharedStrings.xml", "styles": "styles.xml"}
    relations = "".join(
        f'<Relationship Id="rId{number}" Type="{RELATIONS}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(kinds.items(), 1)
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "xl/workbook.xml",
            f'<workbook xmlns="{MAIN}" xmlns:r="{RELATIONS}"><sheets><sheet name="Data" sheetId="1" r:id="rId1"/>'
            "</sheets></workbook>",
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{PACKAGE}">{relations}</Relationships>'
        )
        if strings:
            archive.writestr("xl/sharedStrings.xml", f'<sst xmlns="{MAIN}">{strings}</sst>')
        if styles:
            archive.writestr("xl/styles.xml", f'<styleSheet xmlns="{MAIN}">{styles}</styleSheet>')
        with archive.open("xl/worksheets/sheet1.xml", "w") as file:
            file.write(f'<worksheet xmlns="{MAIN}"><sheetData>'.encode())
            for part in [sheet.encode()] if isinstance(sheet, str) else sheet:
                file.write(part)
            file.write(b"</sheetData></worksheet>")
    return path


def cell(reference: str, value: str, kind: str = "n", style: int = 0) -> str:
    if kind == "text":
        return f'<c r="{reference}" t="inlineStr"><is><t>{value}</t></is></c>'
    return f'<c r="{reference}" t="{kind}" s="{style}"><v>{value}</v></c>'


def test_a_large_double_is_the_same_64_bits(tmp_path: Path) -> None:
    result = made("qsv--excel-large-floats.xlsx", tmp_path)
    assert result.types == {"A": "double"}
    assert result.rows() == [(9.22337203685478e19,)]


def test_the_epoch_is_the_workbooks_own(tmp_path: Path) -> None:
    result = made("qsv--excel-1904-epoch.xlsx", tmp_path)
    assert result.texts("item") == ["alpha", "beta"]
    assert result.texts("date") == ["2024-01-15", "2020-07-04"]
    assert result.types["date"] == "date"


def test_an_error_in_a_typed_column_is_null_and_listed(tmp_path: Path) -> None:
    result = made("fastexcel--div0.xlsx", tmp_path)
    assert result.types["quotient"] == "bigint"
    assert len(result.rows()) == 4
    assert result.texts("quotient").count(None) == 1
    [sheet] = result.report["sheets"]
    assert (sheet["errors"], sheet["formulas"]) == ([["C2", "#DIV/0!"]], 4)


def test_every_kind_of_error_is_listed(tmp_path: Path) -> None:
    sheets = made("calamine--errors.xlsx", tmp_path).report["sheets"]
    assert [text for _, text in sheets[0]["errors"]][:4] == ["#DIV/0!", "#NAME?", "#VALUE!", "#NULL!"]
    assert len(sheets[0]["errors"]) == 7
    assert sheets[0]["hidden_rows"] + sheets[0]["hidden_columns"] > 0
    assert [sheet["used"] for sheet in sheets] == [True, False, False]


def test_dates_and_a_duration_are_text_as_they_are(tmp_path: Path) -> None:
    result = made("calamine--date_1904.xlsx", tmp_path)
    assert result.types["column_1"] == "text"
    assert {"2021-01-01", "2021-01-02"} <= set(result.texts("column_1"))


def test_only_visible_sheets_with_data_are_used_and_the_others_named(tmp_path: Path) -> None:
    result = made("calamine--any_sheets.xlsx", tmp_path / "visible")
    sheets = {sheet["name"]: (sheet["state"], sheet["used"]) for sheet in result.report["sheets"]}
    assert sheets == {
        "Visible": ("visible", True),
        "Hidden": ("hidden", False),
        "VeryHidden": ("veryHidden", False),
        "Chart": ("chart", False),
    }
    assert [output["output"] for output in result.answer.outputs] == ["part", "report"]
    hidden = made("calamine--any_sheets.xlsx", tmp_path / "hidden", sheet="Hidden")
    assert hidden.report["sheet"] == "Hidden"
    with pytest.raises(Unprocessable, match="no sheet 'Nowhere'"):
        made("calamine--any_sheets.xlsx", tmp_path / "nowhere", sheet="Nowhere")


def test_several_sheets_are_several_parts_and_merged_cells_are_listed(tmp_path: Path) -> None:
    result = made("calamine--merged_range.xlsx", tmp_path)
    parts = [output for output in result.answer.outputs if output["output"] == "part"]
    assert [(part["sheet"], part["sheet_no"]) for part in parts] == [("sheet1", 0), ("sheet2", 1)]
    assert "A1:A2" in result.report["sheets"][0]["merged"]
    assert result.texts("A1", "part-1.parquet").count(None) == 2


def test_mixed_columns_are_text(tmp_path: Path) -> None:
    result = made("fastexcel--fixture-multi-dtypes-columns.xlsx", tmp_path)
    assert len(result.rows()) == 9
    types = result.types
    assert {types[name] for name in ("Employee ID", "Asset ID", "Mixed dates", "Mixed bools")} == {"text"}
    assert types["Date"] == "date"


def test_a_header_over_several_rows(tmp_path: Path) -> None:
    plain = made("frictionless--multiline-headers.xlsx", tmp_path / "plain")
    assert plain.report["sheets"][0]["merged"]
    hinted = made("frictionless--multiline-headers.xlsx", tmp_path / "hinted", header=5)
    assert hinted.report["header"] == {"line": 5, "how": "hint"}


def test_a_date_before_march_1900_stays_a_number(tmp_path: Path) -> None:
    result = made("agate-excel--test_ambiguous_date.xlsx", tmp_path)
    assert result.types == {"s": "bigint"}
    assert result.texts("s") == ["1"]
    assert any("before 1900-03-01" in note for note in result.report["columns"][0]["notes"])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("calamine--pass_protected.xlsx", "The workbook is encrypted."),
        ("calamine--issue_594_dos.ods", "The sheet has 999,999,999 columns, 2,000 are processed at most."),
    ],
)
def test_what_is_not_processed_says_so(name: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(Unprocessable) as error:
        made(name, tmp_path)
    assert error.value.detail == told


def test_numbers_dates_booleans_and_texts_keep_their_kind(tmp_path: Path) -> None:
    styles = (
        '<numFmts><numFmt numFmtId="164" formatCode="yyyy-mm-dd hh:mm"/></numFmts>'
        '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="164"/><xf numFmtId="10"/></cellXfs>'
    )
    heads = "".join(cell(f"{letter}1", f"h{letter}", "text") for letter in "ABCDEF")
    rows = "".join(
        f'<row r="{row}">'
        + cell(f"A{row}", str(row))
        + cell(f"B{row}", f"{row / 10!r}")
        + cell(f"C{row}", str(45000 + row), style=1)
        + cell(f"D{row}", repr(45000 + row / 4), style=2)
        + cell(f"E{row}", "1", "b")
        + cell(f"F{row}", "007", "text")
        + "</row>"
        for row in range(2, 6)
    )
    result = lanes.table(
        workbook(tmp_path / "a.xlsx", f'<row r="1">{heads}</row>{rows}', styles=styles), tmp_path / "o"
    )
    assert result.types == {
        "hA": "bigint",
        "hB": "double",
        "hC": "date",
        "hD": "timestamp",
        "hE": "boolean",
        "hF": "text",
    }
    assert result.texts("hC")[0] == "2023-03-17"
    assert result.texts("hD")[:2] == ["2023-03-15 12:00:00", "2023-03-15 18:00:00"]
    assert result.texts("hF")[0] == "007"


def test_pinned_types_hold_for_workbooks_too(tmp_path: Path) -> None:
    rows = "".join(
        f'<row r="{row}">{cell(f"A{row}", f"{row}.5")}{cell(f"B{row}", str(row))}</row>' for row in range(2, 30)
    )
    odd = f'<row r="30">{cell("A30", "0.125")}{cell("B30", "1")}</row>'
    sheet = f'<row r="1">{cell("A1", "amount", "text")}{cell("B1", "n", "text")}</row>{rows}{odd}'
    pins = {"amount": "decimal(10,2)", "n": "text"}
    result = lanes.table(workbook(tmp_path / "a.xlsx", sheet), tmp_path / "out", columns=pins)
    assert result.types == {"amount": "decimal(10,2)", "n": "text"}
    assert result.texts("amount")[0] == "2.50"
    assert result.report["records"]["rejected"] == 1
    assert "amount is no decimal(10,2)" in (result.folder / "rejected.csv").read_text()


def test_a_formula_without_a_value_is_null_and_counted(tmp_path: Path) -> None:
    sheet = (
        f'<row r="1">{cell("A1", "a", "text")}{cell("B1", "b", "text")}</row>'
        f'<row r="2"><c r="A2"><f>B2*2</f></c>{cell("B2", "1")}</row>'
        f'<row r="3"><c r="A3"><f>B3*2</f><v>4</v></c>{cell("B3", "2")}</row>'
    )
    result = lanes.table(workbook(tmp_path / "a.xlsx", sheet), tmp_path / "out")
    assert result.rows() == [(None, 1), (4, 2)]
    [facts] = result.report["sheets"]
    assert (facts["formulas"], facts["formulas_without_value"]) == (2, 1)


def test_prefixes_escapes_and_spoken_japanese_are_read(tmp_path: Path) -> None:
    strings = "<si><t>名前</t><rPh><t>なまえ</t></rPh></si><si><r><t>two </t></r><r><t>runs_x000D_</t></r></si>"
    sheet = f'<row><c t="s"><v>0</v></c></row><row><c t="s"><v>1</v></c></row><row>{cell("A3", "x", "str")}</row>'
    result = lanes.table(workbook(tmp_path / "a.xlsx", sheet, strings), tmp_path / "out")
    assert list(result.types) == ["名前"]
    assert result.texts("名前") == ["two runs\r", "x"]


def numbers(count: int, text: str) -> Iterable[bytes]:
    for row in range(1, count + 1):
        yield f'<row r="{row}">{"".join(cell(f"{chr(65 + c)}{row}", text) for c in range(20))}</row>'.encode()


def one_huge_cell(megabytes: int) -> Iterable[bytes]:
    yield b'<row r="1"><c r="A1" t="inlineStr"><is><t>'
    for _ in range(megabytes):
        yield b"a" * (1 << 20)
    yield b"</t></is></c></row>"


BOMBS: dict[str, tuple[Any, str, dict[str, str]]] = {
    "a far column": (
        f'<row r="1">{cell("A1", "1")}{cell("XFD1", "2")}</row>',
        "The sheet has 16,384 columns, 2,000 are processed at most.",
        {},
    ),
    "one cell of 300 MB": (one_huge_cell(300), "A cell has more than 1 MiB.", {}),
    "much to unpack": (
        one_huge_cell(1),
        "The workbook unpacks to more than 0 MiB.",
        {"TABLE_MAX_UNPACKED_BYTES": "500000"},
    ),
    "many cells": (
        numbers(20_000, "1"),
        "The table has more than 1,000 cells, which is all that is processed.",
        {"TABLE_MAX_CELLS": "1000"},
    ),
    "no XML": ("<row", "The workbook is damaged.", {}),
    "a wrong reference": ('<row r="1"><c r="AAAAA1"><v>1</v></c></row>', "The workbook is damaged.", {}),
    "a wrong string": ('<row r="1"><c r="A1" t="s"><v>9</v></c></row>', "The workbook is damaged.", {}),
    "nothing": ("", "The workbook has no visible sheet with data.", {}),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_with_a_reason_and_within_the_limits(name: str, tmp_path: Path) -> None:
    sheet, told, env = BOMBS[name]
    source = workbook(tmp_path / "bomb.xlsx", sheet)
    with pytest.raises((Unprocessable, ProcessorDied)) as error:
        lanes.table(source, tmp_path / "out", env)
    assert error.value.detail == told


def test_a_far_row_costs_nothing(tmp_path: Path) -> None:
    sheet = f'<row r="1">{cell("A1", "a", "text")}</row><row r="1048576">{cell("A1048576", "7")}</row>'
    assert lanes.table(workbook(tmp_path / "far.xlsx", sheet), tmp_path / "out").rows() == [(7,)]


def test_a_billion_laughs_are_refused(tmp_path: Path) -> None:
    source = workbook(tmp_path / "a.xlsx", "")
    evil = (
        '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;">]><worksheet><sheetData>&c;</sheetData></worksheet>'
    )
    with zipfile.ZipFile(tmp_path / "evil.xlsx", "w") as archive, zipfile.ZipFile(source) as good:
        for name in good.namelist():
            archive.writestr(name, evil if "sheet1" in name else good.read(name))
    with pytest.raises(Unprocessable, match="document type"):
        lanes.table(tmp_path / "evil.xlsx", tmp_path / "out")


@pytest.mark.parametrize(
    ("member", "told"),
    [
        ("a.txt", "The file is an archive, and no workbook."),
        ("xl/workbook.bin", "Workbooks of the kind .xlsb are not processed."),
    ],
)
def test_an_archive_that_is_no_workbook_says_so(tmp_path: Path, member: str, told: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, "hello")
    with pytest.raises(Unprocessable, match=re.escape(told)):
        lanes.table(tmp_path / "a.zip", tmp_path / "out")


def test_a_workbook_of_excel_97_is_read(tmp_path: Path) -> None:
    result = made("ours--kinds.xls", tmp_path)
    assert result.types == {
        "name": "text",
        "zip": "text",
        "amount": "double",
        "whole": "bigint",
        "day": "date",
        "at": "timestamp",
        "flag": "boolean",
        "mixed": "text",
        "share": "double",
    }
    assert result.texts("name") == ["Müller", "名前", "last"]
    assert result.texts("zip") == ["00501", "10001", None]
    assert result.texts("at")[0] == "2026-01-31 10:30:00"
    assert result.report["columns"][-1]["notes"] == ["format: 0%"]
    assert [(sheet["name"], sheet["used"]) for sheet in result.report["sheets"]] == [
        ("Data", True),
        ("Hidden", False),
        ("Empty", False),
    ]
    assert result.report["sheets"][0]["hidden_rows"] == 1


ODS = """<office:document-content xmlns:office="o" xmlns:table="t" xmlns:text="x"><office:body><office:spreadsheet>
<table:table table:name="Data">
<table:table-row><table:table-cell office:value-type="string"><text:p>name</text:p></table:table-cell>
<table:table-cell office:value-type="string"><text:p>n</text:p></table:table-cell>
<table:table-cell office:value-type="string"><text:p>day</text:p></table:table-cell></table:table-row>
<table:table-row table:number-rows-repeated="2"><table:table-cell office:value-type="string"><text:p>a<text:s
text:c="2"/>b</text:p></table:table-cell><table:table-cell office:value-type="float" office:value="1.5">
<text:p>1,5</text:p></table:table-cell><table:table-cell office:value-type="date" office:date-value="2026-01-31">
<text:p>31.1.</text:p></table:table-cell><table:table-cell
table:number-columns-repeated="16000"/></table:table-row>
<table:table-row table:number-rows-repeated="1000000"><table:table-cell/></table:table-row>
</table:table></office:spreadsheet></office:body></office:document-content>"""


def test_an_open_document_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.ods", "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", ODS)
    result = lanes.table(tmp_path / "a.ods", tmp_path / "out")
    assert result.types == {"name": "text", "n": "double", "day": "date"}
    assert result.texts("name") == ["a  b", "a  b"]
    assert result.texts("day") == ["2026-01-31", "2026-01-31"]

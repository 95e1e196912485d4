"""croissant.json: the archive as MLCommons Croissant 1.0 metadata, which data-set search and loaders read."""

from typing import Any

from moesweep.archive.manifest import Entry, Manifest
from moesweep.archive.parquet_tables import Table, parquet_tables

FORMAT_VERSION = "http://mlcommons.org/croissant/1.0"

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that the Croissant 1.0 specification gives, word for word."""

_TYPES = {
    "Int64": "sc:Integer",
    "Float64": "sc:Float",
    "String": "sc:Text",
    "Enum": "sc:Text",
    "Boolean": "sc:Boolean",
}
_FORMATS = {
    "parquet": "application/x-parquet",
    "csv": "text/csv",
    "md": "text/markdown",
    "txt": "text/plain",
    "html": "text/html",
    "json": "application/json",
}


def croissant(manifest: Manifest, citation: dict[str, Any]) -> dict[str, Any]:
    """Describe results as a Croissant data set: a file or file set a table, a record set of its columns.

    `citation` is CITATION.cff. There is no date in it: the same inputs make the same archive.
    """
    tables = parquet_tables(manifest.files)
    single = [entry for entry in manifest.files if "/workload=" not in entry.path]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": name(manifest),
        "description": f"{citation['title']}: results of {manifest.origin['config']['settings']['sweep']}.",
        "conformsTo": FORMAT_VERSION,
        "license": f"https://spdx.org/licenses/{citation['license']}.html",
        "version": manifest.origin["code"]["version"],
        "keywords": citation["keywords"],
        "creator": [{"@type": "sc:Organization", "name": author["name"]} for author in citation["authors"]],
        "citeAs": cite_as(citation),
        "isLiveDataset": False,
        "distribution": [
            *(_file_object(entry) for entry in single),
            *(_file_set(table) for table in tables if table.partitioned),
        ],
        "recordSet": [_record_set(table) for table in tables],
    }


def name(manifest: Manifest) -> str:
    """Return the data set's name, after its sweep."""
    sweep = str(manifest.origin["config"]["settings"]["sweep"])
    return f"moesweep-{sweep.rsplit('/', 1)[-1].rsplit('.', 1)[0]}"


def cite_as(citation: dict[str, Any]) -> str:
    """Return the reference of CITATION.cff on one line."""
    authors = ", ".join(author["name"] for author in citation["authors"])
    return f"{authors}. {citation['title']}. Version {citation['version']}."


def _file_object(entry: Entry) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": entry.path,
        "name": entry.path,
        "contentUrl": entry.path,
        "contentSize": f"{entry.bytes} B",
        "encodingFormat": _FORMATS.get(entry.path.rsplit(".", 1)[-1], "application/octet-stream"),
        "sha256": entry.sha256,
    }


def _file_set(table: Table) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{table.key}-files",
        "name": f"{table.key}-files",
        "description": f"One file per workload, {len(table.files)} in all.",
        "includes": table.pattern,
        "encodingFormat": _FORMATS["parquet"],
    }


def _record_set(table: Table) -> dict[str, Any]:
    whole = {"fileSet": {"@id": f"{table.key}-files"}}
    source = whole if table.partitioned else {"fileObject": {"@id": table.pattern}}
    fields = [_field(table, column, source) for column in table.columns]
    if table.partitioned:
        fields.append(
            {
                "@type": "cr:Field",
                "@id": f"{table.key}/workload",
                "name": f"{table.key}/workload",
                "description": "workload id, from the path",
                "dataType": "sc:Text",
                "source": {
                    **source,
                    "extract": {"fileProperty": "fullpath"},
                    "transform": {"regex": ".*workload=([^/]+)/.*"},
                },
            }
        )
    return {
        "@type": "cr:RecordSet",
        "@id": table.key,
        "name": table.key,
        "description": table.declared["description"],
        "field": fields,
    }


def _field(table: Table, column: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    unit = f" ({column['unit']})" if column.get("unit") else ""
    return {
        "@type": "cr:Field",
        "@id": f"{table.key}/{column['name']}",
        "name": f"{table.key}/{column['name']}",
        "description": column["description"] + unit,
        "dataType": _TYPES[column["type"]],
        "source": {**source, "extract": {"column": column["name"]}},
    }

"""Holds OpenAPI documents against the specification: documents.py FILE..."""

import json
import pathlib
import sys

from openapi_spec_validator import OpenAPIV31SpecValidator

for file in sys.argv[1:]:
    document = json.loads(pathlib.Path(file).read_text())
    mistakes = [
        f"{'/'.join(map(str, mistake.absolute_path))}: {mistake.message}"
        for mistake in OpenAPIV31SpecValidator(document).iter_errors()
    ]
    assert not mistakes, f"{file}: {mistakes}"

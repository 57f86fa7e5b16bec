"""Compiles the .proto files of a folder, for the other scripts."""

import pathlib
import sys

from google.protobuf import descriptor_pb2
from grpc_tools import protoc


def compile_all(folder):
    """Makes modules of all files in the folder and returns what protoc says that they describe."""
    folder = pathlib.Path(folder)
    files = sorted(str(path) for path in folder.glob("*.proto"))
    described = folder / "described.binpb"
    code = protoc.main(
        ["protoc", f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}"]
        + [f"--descriptor_set_out={described}"]
        + files
    )
    assert code == 0, f"protoc refuses one of {files}"
    sys.path.insert(0, str(folder))
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(described.read_bytes())
    return {file.package: file for file in descriptors.file}

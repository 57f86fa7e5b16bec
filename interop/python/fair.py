"""Calls the service of the library with Python's grpcio: fair.py FOLDER-WITH-PROTO ADDRESS TOKEN.

When it says "watching" on its standard output, the server is to be stopped.
"""

import importlib
import sys

import grpc
from google.protobuf import descriptor_pool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

from compile import compile_all

folder, address, token = sys.argv[1:]
compiled = compile_all(folder)
pb = importlib.import_module("acme_fair_pb2")
stubs = importlib.import_module("acme_fair_pb2_grpc")
channel = grpc.insecure_channel(address)
fair = stubs.FairStub(channel)


def fails(code, call):
    """The error of a call that has to fail with this code."""
    try:
        answer = call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()} instead of {code}: {error.details()}"
        return error
    raise AssertionError(f"{answer} instead of {code}")


# Unary, with each kind of field.
everything = pb.Everything(
    flag=True,
    small=-1,
    big=-(2**63),
    count=2**32 - 1,
    counts=[0, 2**64 - 1],
    weight=-0.5,
    text_of_it="\u00e4\U0001f600",
    raw=b"\x00\xff",
    colour=pb.COLOUR_DARK_BLUE,
    maybe_colour=pb.COLOUR_RED,
    notes={"a": pb.Note(text=""), "b": pb.Note()},
)
everything.inner.CopyFrom(pb.Everything(colour=pb.COLOUR_RED))
for sent in [everything, pb.Everything(colour=pb.COLOUR_RED)]:
    echoed = fair.Echo(pb.EchoRequest(everything=sent))
    assert echoed == sent, f"{echoed} instead of {sent}"
assert echoed.HasField("maybe_colour") is False
large = pb.Everything(colour=pb.COLOUR_RED, raw=b"x" * 900_000)
assert fair.Echo(pb.EchoRequest(everything=large)) == large

# What is wrong, and in which field.
error = fails(grpc.StatusCode.INVALID_ARGUMENT, lambda: fair.Echo(pb.EchoRequest()))
assert error.details() == "everything is required", error.details()
error = fails(grpc.StatusCode.ALREADY_EXISTS, lambda: fair.Refuse(pb.RefuseRequest()))
[detail] = rpc_status.from_call(error).details
bad = error_details_pb2.BadRequest()
assert detail.Unpack(bad)
violations = [(one.field, one.description) for one in bad.field_violations]
assert violations == [("amount", "must be even"), ("list[1].name", "must not be empty")], violations
error = fails(grpc.StatusCode.INVALID_ARGUMENT, lambda: fair.Wait(pb.WaitRequest(millis=1001)))
assert error.details() == "millis must not be above 1000", error.details()

# Streaming: to its end, broken off by the server, broken off by the caller.
assert [item.value for item in fair.Count(pb.CountRequest(to=5))] == [1, 2, 3, 4, 5]
read = []
error = fails(
    grpc.StatusCode.ABORTED,
    lambda: [read.append(item.value) for item in fair.Count(pb.CountRequest(to=20))],
)
assert read == list(range(1, 10)), read
stream = fair.Count(pb.CountRequest(to=5))
assert next(stream).value == 1
stream.cancel()

# Deadlines reach the other side, and end a call there too.
answer = fair.Wait(pb.WaitRequest(millis=10), timeout=3)
assert 1000 < answer.value <= 3000, answer
fails(
    grpc.StatusCode.DEADLINE_EXCEEDED,
    lambda: fair.Wait(pb.WaitRequest(millis=1_000), timeout=0.3),
)

# Who calls.
ask = pb.VisitorRequest(number=1, title="Lady")
fails(grpc.StatusCode.UNAUTHENTICATED, lambda: fair.Visitor(ask))
wrong = [("authorization", "Bearer " + "x" * 32)]
fails(grpc.StatusCode.UNAUTHENTICATED, lambda: fair.Visitor(ask, metadata=wrong))
right = [("authorization", "Bearer " + token)]
assert fair.Visitor(ask, metadata=right).value == "Lady visitor 1"
fails(
    grpc.StatusCode.UNIMPLEMENTED,
    lambda: channel.unary_unary("/acme.fair.Fair/Nothing")(b""),
)

# What the server tells of itself is what protoc makes of the text.
database = ProtoReflectionDescriptorDatabase(channel)
assert list(database.get_services()) == ["acme.fair.Fair"], database.get_services()
told = database.FindFileContainingSymbol("acme.fair.Fair")
expected = compiled["acme.fair"]
told.name = expected.name
assert told == expected, f"{told}\ninstead of\n{expected}"
pool = descriptor_pool.DescriptorPool(database)
method = pool.FindServiceByName("acme.fair.Fair").FindMethodByName("Count")
assert method.output_type.fields_by_name["value"].number == 1
# Version 1 is the same under another name.
v1 = channel.stream_stream(
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
    response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
)
[answer] = v1(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
assert [one.name for one in answer.list_services_response.service] == ["acme.fair.Fair"]

# Health, until the server is stopped.
health = health_pb2_grpc.HealthStub(channel)
check = health_pb2.HealthCheckRequest
for service in ["", "acme.fair.Fair"]:
    answer = health.Check(check(service=service))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
fails(grpc.StatusCode.NOT_FOUND, lambda: health.Check(check(service="acme.fair.Unfair")))
watched = health.Watch(check(service="acme.fair.Fair"), timeout=60)
assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
print("watching", flush=True)
assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
fails(grpc.StatusCode.UNAVAILABLE, lambda: next(watched))

"""Calls the three services with Python's grpcio: services.py FOLDER-WITH-PROTO USERS BUGS NOTIFICATOR."""

import sys

import grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from compile import compile_all

folder, *addresses = sys.argv[1:]
compiled = compile_all(folder)
import bugs_pb2, bugs_pb2_grpc, notificator_pb2, notificator_pb2_grpc, users_pb2, users_pb2_grpc

channels = [grpc.insecure_channel(address) for address in addresses]
for channel, name in zip(channels, ["users.Users", "bugs.Bugs", "notificator.Notificator"]):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert list(database.get_services()) == [name]
    told = database.FindFileContainingSymbol(name)
    expected = compiled[name.split(".")[0]]
    told.name = expected.name
    assert told == expected, f"{told}\ninstead of\n{expected}"

users = users_pb2_grpc.UsersStub(channels[0])
bugs = bugs_pb2_grpc.BugsStub(channels[1])
notificator = notificator_pb2_grpc.NotificatorStub(channels[2])

once = [("idempotency-key", "ada")]
user = users.Create(users_pb2.CreateRequest(email="ada@example.org"), metadata=once)
assert users.Create(users_pb2.CreateRequest(email="ada@example.org"), metadata=once) == user
assert users.Get(users_pb2.GetRequest(id=user.id)) == user
assert list(users.List(users_pb2.ListRequest(page_size=1)).users) == [user]
try:
    users.Create(users_pb2.CreateRequest(email="ada@example.org"))
    raise AssertionError("an address is unique")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS, error

bug = bugs.Create(
    bugs_pb2.CreateRequest(title="It rains", description="Into the shop.", reporter=user.id)
)
assert bug.status == bugs_pb2.STATUS_OPEN
moved = bugs.SetStatus(bugs_pb2.SetStatusRequest(id=bug.id, status=bugs_pb2.STATUS_IN_PROGRESS))
assert moved.status == bugs_pb2.STATUS_IN_PROGRESS
bugs.Comment(bugs_pb2.CommentRequest(bug=bug.id, author=user.id, text="It still does."))
[comment] = bugs.Comments(bugs_pb2.CommentsRequest(bug=bug.id)).comments
assert comment.text == "It still does."

mail = notificator_pb2.SendEmailRequest(to="ada@example.org", subject="Rain", body="It does.")
assert notificator.SendEmail(mail, metadata=once).id

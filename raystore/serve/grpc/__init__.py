"""Predict and log over gRPC, with the messages of HTTP. `raystore.proto` is the interface, of which the files `*_pb2*` are made.

server.py    the server of one replica          messages.py   between protobuf and what the orchestrator takes and gives
calls.py     what every call passes through     stream.py     lines of a stream     refusals.py   errors as statuses
health.py    grpc.health.v1.Health
"""

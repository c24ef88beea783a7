"""Add a worker, wait until it is ready, remove it: python worker_lifecycle.py [TARGET]"""

import sys

import grpc

from smg_proto import smg_pb2, smg_pb2_grpc

target = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"

with grpc.insecure_channel(target) as channel:
    stub = smg_pb2_grpc.WorkerServiceStub(channel)
    watch = stub.WatchWorkers(smg_pb2.WatchWorkersRequest())
    spec = smg_pb2.WorkerSpec(url="grpc://worker-9:50051", labels={"zone": "a"})
    made = stub.CreateWorker(smg_pb2.CreateWorkerRequest(spec=spec, idempotency_key="worker-9"))
    for event in watch:
        if event.removed_id == made.id:
            print("removed")
            break
        if event.worker.id != made.id:
            continue
        print(smg_pb2.WorkerState.Name(event.worker.state))
        if event.worker.state == smg_pb2.WORKER_STATE_FAILED:
            sys.exit(event.worker.error.message)
        if event.worker.state == smg_pb2.WORKER_STATE_READY:
            stub.DeleteWorker(smg_pb2.DeleteWorkerRequest(id=made.id))
    watch.cancel()

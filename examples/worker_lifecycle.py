"""Add a worker, wait until it is ready, label it, remove it.

python worker_lifecycle.py [TARGET [WORKER_URL]]
"""

import sys

from smg_proto import connect, smg_pb2, smg_pb2_grpc, wait_ready

target = sys.argv[1] if len(sys.argv) > 1 else "localhost:8000"
url = sys.argv[2] if len(sys.argv) > 2 else "grpc://worker-9:50051"
with connect(target) as channel:
    workers = smg_pb2_grpc.WorkerServiceStub(channel)
    spec = smg_pb2.WorkerSpec(url=url, labels={"zone": "a"})
    worker = workers.CreateWorker(smg_pb2.CreateWorkerRequest(spec=spec))
    worker = wait_ready(workers, worker, timeout=600)
    print(smg_pb2.WorkerState.Name(worker.state))
    workers.UpdateWorker(smg_pb2.UpdateWorkerRequest(id=worker.id, labels={"shift": "late"}))
    watch = workers.WatchWorkers(smg_pb2.WatchWorkersRequest())
    for event in watch:
        if event.removed_id == worker.id:
            print("removed")
            break
        here = event.worker.id == worker.id and event.worker.state == worker.state
        if here and event.worker.spec.labels.get("shift"):
            print("labelled", sorted(event.worker.spec.labels))
            workers.DeleteWorker(smg_pb2.DeleteWorkerRequest(id=worker.id))
    watch.cancel()

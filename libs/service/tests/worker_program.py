"""A service without a database, for tests of workers: it tells which process answers."""

import os
import time

from mdm.srm.v1 import srm_pb2, srm_pb2_grpc
from mdm_service.process.main import Runtime, run
from mdm_service.settings import ConfigurationError, ServiceSettings

FULL_NAME = "mdm.srm.v1.SrmService"


class Settings(ServiceSettings):
    broken: bool = False


class Srm(srm_pb2_grpc.SrmServiceServicer):
    def Ping(self, request, context):
        return srm_pb2.PingResponse(version=str(os.getpid()))

    def PrepareToGet(self, request, context):
        time.sleep(request.pin_seconds)
        return srm_pb2.PrepareToGetResponse(token=str(os.getpid()))


def build(settings: Settings, runtime: Runtime) -> None:
    if settings.broken:
        raise ConfigurationError("broken: this cannot be used")
    srm_pb2_grpc.add_SrmServiceServicer_to_server(Srm(), runtime.server)
    runtime.add_service(FULL_NAME)


if __name__ == "__main__":
    run("catalog", Settings, build)

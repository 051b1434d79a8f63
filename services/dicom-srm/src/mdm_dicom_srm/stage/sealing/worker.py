"""The worker process of `ProcessSealer`: python -m mdm_dicom_srm.stage.sealing.worker DESCRIPTOR."""

import signal
import sys
from multiprocessing.connection import Connection

from mdm_dicom_srm.stage.sealing.seal import MakeDeidentifier, seal


def main(descriptor: int) -> None:
    """Seal what comes over the pipe until the other end closes it. Keys and plaintext stay in memory."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Connection(descriptor) as pipe:
        try:
            make: MakeDeidentifier = pipe.recv()
            deidentifier = make()
            pipe.send(None)
            while True:
                patient, guid, key, path = pipe.recv()
                pipe.send(seal(deidentifier, pipe.recv_bytes(), patient, guid, key, path))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""Reading staged files over gRPC."""

from mdm_dicom_srm.transfer.servicer import TransferServicer

__all__ = ["TransferServicer"]

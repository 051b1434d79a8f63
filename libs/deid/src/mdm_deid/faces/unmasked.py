"""Why the face of a series cannot be blanked with certainty."""


class FaceUnmasked(Exception):
    """No mask is made; `detail` is a stable code of why, which identifies nobody."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail

"""The models behind KServe's Python server, as its documentation shows."""

import sys

# This folder holds a file of the same name.
sys.path.append(sys.path.pop(0))

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from sessions import Sessions


class Bundled(Model):
    """V2: JSON and binary tensors."""

    def __init__(self, plain: str, explaining: str) -> None:
        super().__init__("bundled")
        self.sessions = Sessions(plain, explaining)
        self.ready = True

    def predict(
        self, payload: InferRequest, headers: dict | None = None, response_headers: object = None
    ) -> InferResponse:
        """One request."""
        wanted = [o.name for o in payload.request_outputs or ()]
        found = self.sessions.run(payload.inputs[0].as_numpy(), wanted)
        outputs = []
        for name, values in zip(wanted or self.sessions.own, found, strict=True):
            one = InferOutput(name, list(values.shape), "FP32")
            one.set_data_from_numpy(values, binary_data=payload.use_binary_outputs)
            outputs.append(one)
        return InferResponse(
            payload.id or "", self.name, outputs, use_binary_outputs=payload.use_binary_outputs
        )


if __name__ == "__main__":
    ModelServer(http_port=int(sys.argv[3]), enable_grpc=False).start(
        [Bundled(sys.argv[1], sys.argv[2])]
    )

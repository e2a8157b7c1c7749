"""The models behind MLServer, as its documentation shows. It speaks JSON alone."""

import json
import os
import sys
from pathlib import Path

# This folder holds a file of the same name.
HERE = sys.path.pop(0)
sys.path.append(HERE)

from mlserver import MLModel  # noqa: E402
from mlserver.codecs import NumpyCodec  # noqa: E402
from mlserver.types import InferenceRequest, InferenceResponse  # noqa: E402


class Bundled(MLModel):
    """V2, JSON."""

    async def load(self) -> bool:
        """Both sessions."""
        from sessions import Sessions

        told = json.loads(Path("models.json").read_text(encoding="utf-8"))
        self.sessions = Sessions(*told)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """One request."""
        wanted = [o.name for o in payload.outputs or ()]
        found = self.sessions.run(NumpyCodec.decode_input(payload.inputs[0]), wanted)
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                NumpyCodec.encode_output(name, values)
                for name, values in zip(wanted or self.sessions.own, found, strict=True)
            ],
        )


def main() -> None:
    """Write what it reads, here, and start it."""
    plain, explaining, port = (*map(os.path.abspath, sys.argv[1:3]), int(sys.argv[3]))
    settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": port + 1,
                "metrics_port": port + 2, "parallel_workers": len(os.sched_getaffinity(0)),
                "debug": False}  # fmt: skip
    model = {"name": "bundled", "implementation": "served.Bundled"}
    for name, told in (("models.json", [plain, explaining]), ("settings.json", settings),
                       ("model-settings.json", model)):  # fmt: skip
        Path(name).write_text(json.dumps(told), encoding="utf-8")
    Path("served.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    # Behind everything else: in this folder `mlserver` is this file.
    paths = [os.getcwd(), HERE]
    code = f"import sys; sys.path += {paths!r}; from mlserver.cli import main; main()"
    os.execv(sys.executable, [sys.executable, "-c", code, "start", "."])


if __name__ == "__main__":
    main()

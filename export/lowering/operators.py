"""What two runtimes take: operators, their versions and types, as their own documents list them.

CUDA: docs/OperatorKernels.md of ONNX Runtime at commit 001d12d2623f (release 1.24), the part on
CUDAExecutionProvider; versions that are in force at opset 18 and up. A kernel serves the version
that it names and, where it names a last one, those up to there: an entry "13+" does not serve a
version 19 of the operator (kernel_registry.cc, VerifyVersion; issue 13781). Later releases
register more (issue 27729): what is listed here suits them too.

NOT_OPENVINO: what OpenVINO 2026.4 has no conversion rule for, asked operator by operator
(tests/runtimes/test_openvino.py asks again); all others it takes.

TENSORRT: docs/operators.md of onnx-tensorrt for TensorRT 10.15, opset 9 to 24. What it says in
words is in `support.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

__all__ = ["CUDA", "EXPANDED", "NOT_OPENVINO", "RELEASES", "TENSORRT", "TYPES"]

RELEASES = {
    "cuda": "ONNX Runtime 1.24's CUDA provider",
    "tensorrt": "TensorRT 10.15's parser",
    "openvino": "OpenVINO 2026.4's frontend",
}

D = ir.DataType
TYPES: Mapping[str, frozenset[ir.DataType]] = {
    "f": frozenset((D.FLOAT, D.FLOAT16, D.DOUBLE)),
    "b": frozenset((D.BFLOAT16,)),
    "i": frozenset((D.INT32,)),
    "l": frozenset((D.INT64,)),
    "y": frozenset((D.INT8,)),
    "u": frozenset((D.UINT8,)),
    "w": frozenset((D.INT16, D.UINT16, D.UINT32, D.UINT64)),
    "o": frozenset((D.BOOL,)),
    "q": frozenset((D.FLOAT8E4M3FN, D.FLOAT8E5M2)),
}

# operator -> version -> the types of its data, by the letters above
Kernels = Mapping[str, Mapping[int, str]]


def _kernels(text: str) -> Kernels:
    """Lines of `types versions: operators`; `Name@versions` has versions of its own, and several
    lines for an operator add up."""
    found: dict[str, dict[int, str]] = {}
    for line in text.strip().splitlines():
        head, _, names = line.partition(":")
        types, versions = head.split()
        for name in names.split():
            name, _, own = name.partition("@")
            for version in (own or versions).split(","):
                found.setdefault(name, {})[int(version)] = types
    return found


CUDA: Kernels = _kernels("""
fbilyuw 13: Abs Sign
fbilyuw 14: Add Div Mul Sub
fbil 13: Max Min Mod Tile ReduceSum
fbily 13: Neg
fbil 15: Pow
fbilu 16: Where
fil 13: Greater Less
fil 16: GreaterOrEqual LessOrEqual
filo 13: Equal
o 7: And Or Xor Not@1
f 13: ArgMax ArgMin Ceil Floor Log LogSoftmax LRN Reciprocal DepthToSpace SpaceToDepth
fb 13: Erf Exp Gemm MatMul Sigmoid Softmax Sqrt Sum Tanh Dropout IsNaN@13,20
f 1: GlobalAveragePool GlobalMaxPool Softplus Softsign
f 6: Elu HardSigmoid InstanceNormalization Selu
f 7: Cos Sin
f 11: AveragePool@11,19 Conv ConvTranspose Round ThresholdedRelu@10 IsInf@10
fb 22: AveragePool Conv HardSigmoid HardSwish
fb 20: Gelu IsInf
fb 14: Relu
f 14: HardSwish GRU LSTM RNN
f 15: BatchNormalization
f 16: LeakyRelu PRelu GridSample@16,20,22
fb 17: LayerNormalization
fb 23: RMSNormalization RotaryEmbedding Attention@23,24
f 12: Einsum
fuy 12: MaxPool
fluy 13: Clip
fo 18: Pad
fil 14: CumSum
fil 11: Range TopK
filou 13: NonZero
fbol 13: GatherND
fi 18: ReduceL1 ReduceL2 ReduceMean ReduceProd
f 18: ReduceLogSum ReduceLogSumExp ReduceSumSquare
fil 18: ReduceMax
filuy 18: ReduceMin
fiu 18: Resize@18,19
il 11: OneHot
filw 9: EyeLike
filyuw 9: Shrink
f 1: RandomNormal RandomUniform
fbilyuwo 1: RandomNormalLike RandomUniformLike
y 10: MatMulInteger
yu 13: DequantizeLinear@13
yuq 19: DequantizeLinear@19,21
f 13: QuantizeLinear@13,19,21
fbilyuwo 13: Concat Expand Flatten Gather GatherElements Size Slice Squeeze@13,21,23
fbilyuwo 13: Transpose@13,21,23 Unsqueeze@13,21,23 Identity@14,16 Cast@13
fbilyuwoq 19: Cast@19,21,23 Identity Reshape@19,21,23 Shape@19,21,23
fbilyuwo 14: Reshape Trilu Shape@15 Compress@11 ConstantOfShape@9 ReverseSequence@10
fbilyuwo 18: ScatterElements ScatterND Split
fbilyuwo 16: If@13,16,19 Loop@13,16,19 Scan@16,19
fbilyuwo 24: TensorScatter
""")

# Standard functions that no provider implements: ONNX Runtime writes them out as their parts.
EXPANDED = frozenset("CastLike GroupNormalization Mish Swish".split())

# Version 0 stands for all.
TENSORRT: Kernels = _kernels("""
fbil 0: Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual
fbil 0: Max Mean Min Mod Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
fbil 0: ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Scatter
fbil 0: ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TopK
fbi 0: TensorScatter
fb 0: Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv
fb 0: ConvTranspose Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor Gemm GlobalAveragePool
fb 0: GlobalLpPool GlobalMaxPool GroupNormalization GRU HardSigmoid HardSwish Hardmax
fb 0: InstanceNormalization IsInf LayerNormalization LeakyRelu Log LogSoftmax LRN LSTM
fb 0: LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization PRelu QuantizeLinear
fb 0: RandomNormal RandomNormalLike RandomUniform RandomUniformLike Reciprocal Resize
fb 0: RMSNormalization RNN RotaryEmbedding Round Scan Selu Sigmoid Sin Sinh Softmax Softplus
fb 0: Softsign Sqrt Tan Tanh ThresholdedRelu Upsample
fbilo 0: Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND
fbilo 0: Identity If Loop OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile
fbilo 0: Transpose Trilu Unsqueeze Where
fbilou 0: Cast CastLike
fbily 0: Gelu
fby 0: Attention
f 0: BlackmanWindow DeformConv GridSample HammingWindow HannWindow Mish NonMaxSuppression NonZero
f 0: RoiAlign STFT
yq 0: DequantizeLinear
o 0: And Not Or Xor
""")

NOT_OPENVINO = frozenset(
    "BitCast CausalConvWithState ConcatFromSequence CumProd DeformConv Det ImageDecoder "
    "LinearAttention MaxUnpool MelWeightMatrix Optional OptionalGetElement OptionalHasElement "
    "RegexFullMatch SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert "
    "SequenceLength SequenceMap StringConcat StringNormalizer StringSplit SwiGLU TensorScatter "
    "TfIdfVectorizer".split()
)

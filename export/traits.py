"""What an operator is, whatever a rule makes of it: one table, and a set of names per trait.

Every operator stands in one row. Who asks takes a set (`traits.MOVES`), and says next to it what it
adds or leaves out, and why. The names are those of ai.onnx (ONNX Operators); a trait is about the
first output, and speaks of any attributes that the standard allows. That an operator lacks one says
less: nobody may have asked. `tests/export/test_traits.py` holds the table to onnx's schemas, to the
registry of rules, and to what the operators compute.
"""

from __future__ import annotations

import enum

__all__ = ["TABLE", "Trait", "having"]


class Trait(enum.Flag):
    """ELEMENTWISE: an element is made of the inputs' elements at its place, which broadcast.
    KEEPS_SHAPE: shaped like the first input.
    SAME: the first input's values, each at its place; their type may change, and with it rounding.
    RESHAPES: the first input's elements in the same order, in another shape.
    MOVES: the inputs' own elements, or a filling, moved, repeated or left out.
    BOOLEAN, INTEGERS: bool, int64, whatever is read. COMPARES: of two numbers, which is larger.
    BITS: works on bits of whole numbers.
    NEVER_NEGATIVE: nothing below 0. KEEPS_SIGN: nothing below 0 where no operand has any (of what
    keeps the first input's shape, or moves it: where that has none).
    RECTIFIES: holds back what is negative or small. LEAKS: a part of it alone.
    CONTRACTS: sums of products with weights. POOLS: over windows, or the whole map. REDUCES: along
    axes that it is told.
    CHANNELS_SECOND: channels are axis 1. CHANNELS_LAST: works along the last axis.
    ASKS_SIZE: reads a tensor's shape alone. QUANTIZES: to codes, or back.
    INTEGER_OPERANDS: operands behind the first are shapes, axes, indices and counts.
    NO_GRADIENT: none by the mathematics: zero almost everywhere, or nothing that could have one.
    """

    NONE = 0
    ELEMENTWISE = enum.auto()
    KEEPS_SHAPE = enum.auto()
    SAME = enum.auto()
    RESHAPES = enum.auto()
    MOVES = enum.auto()
    BOOLEAN = enum.auto()
    INTEGERS = enum.auto()
    COMPARES = enum.auto()
    BITS = enum.auto()
    NEVER_NEGATIVE = enum.auto()
    KEEPS_SIGN = enum.auto()
    RECTIFIES = enum.auto()
    LEAKS = enum.auto()
    CONTRACTS = enum.auto()
    POOLS = enum.auto()
    REDUCES = enum.auto()
    CHANNELS_SECOND = enum.auto()
    CHANNELS_LAST = enum.auto()
    ASKS_SIZE = enum.auto()
    QUANTIZES = enum.auto()
    INTEGER_OPERANDS = enum.auto()
    NO_GRADIENT = enum.auto()


_T = Trait
# Of one tensor, element by element.
_UNARY = _T.ELEMENTWISE | _T.KEEPS_SHAPE
_LOGICAL = _T.BOOLEAN | _T.NO_GRADIENT
_MOVED = _T.MOVES | _T.KEEPS_SIGN

_ROWS: tuple[tuple[str, Trait], ...] = (
    # Of one tensor, element by element.
    ("Abs Acos Acosh Cosh Exp HardSigmoid Sigmoid Softplus Sqrt", _UNARY | _T.NEVER_NEGATIVE),
    ("Relu", _UNARY | _T.NEVER_NEGATIVE | _T.RECTIFIES),
    ("ThresholdedRelu", _UNARY | _T.KEEPS_SIGN | _T.RECTIFIES),
    ("LeakyRelu PRelu", _UNARY | _T.KEEPS_SIGN | _T.RECTIFIES | _T.LEAKS),
    (
        "Asin Asinh Atan Atanh Celu Elu Erf Gelu HardSwish Mish Reciprocal Sinh Softsign Swish "
        "Tanh",
        _UNARY | _T.KEEPS_SIGN,
    ),
    # Clip: by its bounds. Selu, Shrink: by attributes.
    ("Clip Cos Log Neg Selu Shrink Sin Tan", _UNARY),
    ("Ceil Floor Round Sign", _UNARY | _T.KEEPS_SIGN | _T.NO_GRADIENT),
    ("IsInf IsNaN Not", _UNARY | _LOGICAL),
    ("BitwiseNot", _UNARY | _T.BITS | _T.NO_GRADIENT),
    ("Cast Dropout", _UNARY | _T.SAME | _T.KEEPS_SIGN),
    # Its second input is read for its type alone, of whatever shape.
    ("CastLike", _T.KEEPS_SHAPE | _T.SAME | _T.KEEPS_SIGN),
    ("Identity", _UNARY | _T.SAME | _T.RESHAPES | _MOVED),
    # Of several, element by element.
    ("Add Div Max Mean Min Mod Mul Pow Sum", _T.ELEMENTWISE | _T.KEEPS_SIGN),
    ("Sub Where", _T.ELEMENTWISE),
    ("And Or Xor", _T.ELEMENTWISE | _LOGICAL),
    ("Equal Greater GreaterOrEqual Less LessOrEqual", _T.ELEMENTWISE | _T.COMPARES | _LOGICAL),
    ("BitShift BitwiseAnd BitwiseOr BitwiseXor", _T.ELEMENTWISE | _T.BITS | _T.NO_GRADIENT),
    # Moving.
    ("Flatten", _T.RESHAPES | _MOVED),
    ("Reshape Squeeze Unsqueeze", _T.RESHAPES | _MOVED | _T.INTEGER_OPERANDS),
    ("Compress Concat Transpose", _MOVED),
    ("DepthToSpace SpaceToDepth", _MOVED | _T.CHANNELS_SECOND),
    (
        "CenterCropPad Expand Gather GatherElements GatherND Slice Split Tile",
        _MOVED | _T.INTEGER_OPERANDS,
    ),
    ("ReverseSequence Trilu", _MOVED | _T.KEEPS_SHAPE | _T.INTEGER_OPERANDS),
    # By what it fills with.
    ("Pad", _T.MOVES),
    ("ScatterElements ScatterND", _T.KEEPS_SHAPE),
    ("TopK Col2Im", _T.KEEPS_SIGN | _T.INTEGER_OPERANDS),
    ("AffineGrid", _T.INTEGER_OPERANDS),
    ("GridSample", _T.CHANNELS_SECOND),
    ("Resize Upsample", _T.NONE),
    # Sums and products.
    ("Conv ConvTranspose", _T.CONTRACTS | _T.CHANNELS_SECOND),
    ("Gemm MatMul", _T.CONTRACTS | _T.CHANNELS_LAST),
    ("Einsum", _T.CONTRACTS),
    ("AveragePool GlobalAveragePool", _T.POOLS | _T.CHANNELS_SECOND | _T.KEEPS_SIGN),
    ("GlobalMaxPool MaxPool", _T.POOLS | _T.CHANNELS_SECOND | _T.KEEPS_SIGN),
    ("GlobalLpPool LpPool", _T.POOLS | _T.CHANNELS_SECOND | _T.NEVER_NEGATIVE),
    ("ReduceL1 ReduceL2 ReduceSumSquare", _T.REDUCES | _T.NEVER_NEGATIVE | _T.INTEGER_OPERANDS),
    (
        "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum",
        _T.REDUCES | _T.KEEPS_SIGN | _T.INTEGER_OPERANDS,
    ),
    ("ReduceLogSum ReduceLogSumExp", _T.REDUCES | _T.INTEGER_OPERANDS),
    ("CumSum", _T.KEEPS_SHAPE | _T.KEEPS_SIGN | _T.INTEGER_OPERANDS),
    # Normalisations, and what weighs along an axis.
    (
        "BatchNormalization GroupNormalization InstanceNormalization LRN",
        _T.KEEPS_SHAPE | _T.CHANNELS_SECOND,
    ),
    ("LayerNormalization RMSNormalization", _T.KEEPS_SHAPE | _T.CHANNELS_LAST),
    ("LpNormalization", _T.KEEPS_SHAPE | _T.KEEPS_SIGN),
    ("LogSoftmax MeanVarianceNormalization RotaryEmbedding", _T.KEEPS_SHAPE),
    ("Softmax", _T.KEEPS_SHAPE | _T.NEVER_NEGATIVE),
    ("Hardmax", _T.KEEPS_SHAPE | _T.NEVER_NEGATIVE | _T.NO_GRADIENT),
    ("DequantizeLinear QuantizeLinear", _T.KEEPS_SHAPE | _T.QUANTIZES),
    # Layers of their own.
    ("Attention GRU LSTM RNN", _T.NONE),
    ("DFT", _T.INTEGER_OPERANDS),
    # Numbers of their own.
    ("Shape Size", _T.INTEGERS | _T.ASKS_SIZE | _T.NO_GRADIENT),
    ("ArgMax ArgMin NonMaxSuppression NonZero", _T.INTEGERS | _T.NO_GRADIENT),
    ("Bernoulli EyeLike RandomNormalLike RandomUniformLike", _T.KEEPS_SHAPE | _T.NO_GRADIENT),
    (
        "Constant ConstantOfShape Multinomial OneHot RandomNormal RandomUniform Range",
        _T.NO_GRADIENT,
    ),
)

TABLE: dict[str, Trait] = {name: trait for names, trait in _ROWS for name in names.split()}


def having(trait: Trait) -> frozenset[str]:
    """The operators that have a trait: all parts of it."""
    return frozenset(name for name, traits in TABLE.items() if trait in traits)


ELEMENTWISE = having(Trait.ELEMENTWISE)
UNARY = having(_UNARY)
KEEPS_SHAPE = having(Trait.KEEPS_SHAPE)
SAME = having(Trait.SAME)
RESHAPES = having(Trait.RESHAPES)
MOVES = having(Trait.MOVES)
BOOLEAN = having(Trait.BOOLEAN)
INTEGERS = having(Trait.INTEGERS)
COMPARES = having(Trait.COMPARES)
BITS = having(Trait.BITS)
NEVER_NEGATIVE = having(Trait.NEVER_NEGATIVE)
KEEPS_SIGN = having(Trait.KEEPS_SIGN)
RECTIFIES = having(Trait.RECTIFIES)
LEAKS = having(Trait.LEAKS)
CONTRACTS = having(Trait.CONTRACTS)
POOLS = having(Trait.POOLS)
REDUCES = having(Trait.REDUCES)
CHANNELS_SECOND = having(Trait.CHANNELS_SECOND)
CHANNELS_LAST = having(Trait.CHANNELS_LAST)
ASKS_SIZE = having(Trait.ASKS_SIZE)
QUANTIZES = having(Trait.QUANTIZES)
INTEGER_OPERANDS = having(Trait.INTEGER_OPERANDS)
NO_GRADIENT = having(Trait.NO_GRADIENT)

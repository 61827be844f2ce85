"""What each framework means by group norm when it is told nothing else (`--like`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """A framework's defaults. `groups` is None where the framework has no default and wants to be told.

    `source` names the definition that the values were read from.
    """

    name: str
    layout: str
    groups: int | None
    eps: float
    grouping: str
    source: str

    @property
    def defaults(self) -> dict[str, object]:
        """The options that the framework decides, by their names on the command line."""
        chosen = {"layout": self.layout, "groups": self.groups, "eps": self.eps, "grouping": self.grouping}
        return {option: value for option, value in chosen.items() if value is not None}


CONVENTIONS = {
    convention.name: convention
    for convention in (
        Convention(
            name="torch",
            layout="channels_first",
            groups=None,
            eps=1e-5,
            grouping="contiguous",
            source="torch.nn.GroupNorm: torch/nn/modules/normalization.py "
            "(input (N, C, *); num_groups is required)",
        ),
        Convention(
            name="keras",
            layout="channels_last",
            groups=32,
            eps=1e-3,
            grouping="contiguous",
            source="keras.layers.GroupNormalization: "
            "keras/src/layers/normalization/group_normalization.py of Keras 3 (axis=-1)",
        ),
        Convention(
            name="tensorflow",
            layout="channels_last",
            groups=32,
            eps=1e-3,
            grouping="contiguous",
            # TensorFlow has no layer of its own since 2.11: it exports Keras's.
            source="tf.keras.layers.GroupNormalization: the TensorFlow 2.20 API reference (axis=-1)",
        ),
        Convention(
            name="flax",
            layout="channels_last",
            groups=32,
            eps=1e-6,
            grouping="contiguous",
            source="flax.linen.GroupNorm: flax/linen/normalization.py (x is (..., C))",
        ),
        Convention(
            name="onnx",
            layout="channels_first",
            groups=None,
            eps=1e-5,
            grouping="contiguous",
            source="ai.onnx GroupNormalization, opset 21: onnx/defs/nn/defs.cc "
            "(X is (N, C, D1, ...); num_groups is required)",
        ),
        Convention(
            name="mlx",
            layout="channels_last",
            groups=None,
            eps=1e-5,
            grouping="interleaved",
            source="mlx.nn.GroupNorm: python/mlx/nn/layers/normalization.py, with its default "
            "pytorch_compatible=False, which reshapes to (N, -1, G): channel c falls in group c % G",
        ),
    )
}

"""Any vision tower of transformers as the understanding eye: CLIP, SigLIP 2, DINOv2, DINOv3, ViT, BEiT and others.

    pixels ─► tower ─► features of one layer [M, N, C] ─► pixel shuffle ─► adaptor ─► embeddings [M, N', D]

A tower is what `AutoModel` makes of a vision config: one that takes pictures of a fixed size, and gives first its class
token and registers, if it has any, then a feature for each patch in reading order. Sources: LLaVA for the layer before
the last (arXiv 2304.08485, §4.1); InternVL 1.5 for the pixel shuffle (arXiv 2404.16821, §3.1).
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any, Self

import torch
from torch import Tensor, nn

from openjanus.config import ConfigError, NonNegativeInt, PositiveInt, Range
from openjanus.model.eye import (
    Adaptor,
    GenerationEyeConfig,
    UnderstandingEye,
    UnderstandingEyeConfig,
    initialise_normal,
)

LAST = -1
SIZES = ("image_size", "patch_size", "hidden_size", "num_hidden_layers")
# Keys of towers whose features are not one for each patch: stages of merged patches, hidden patches, objects, frames.
OTHER_FEATURES = ("depths", "mask_ratio", "num_detection_tokens", "num_frames", "tubelet_size")
# Keys that make transformers fetch code or weights from the hub, or do not belong to a tower's shape.
REFUSED = (
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "quantization_config",
    "use_pretrained_backbone",
)
POOLING = ("head", "pooler")  # parts of a tower that make one vector of all features; nobody needs it


@dataclass(frozen=True)
class TowerEyeConfig(UnderstandingEyeConfig):
    """encoder: the tower's whole config as transformers writes it, `model_type` included (starting/towers.py reads it).

    size_px: side of the pictures, if it is not the tower's `image_size`; DINOv2 and DINOv3 take any. layer: -1 is the
    output of the tower with its final norm, if it has one; another number is an index into `hidden_states`, such as -2
    for the output of the layer before the last. class_token: it takes a position before the patches. pixel_shuffle:
    with 2, each 2x2 patches become one position with all their channels.
    """

    encoder: dict[str, Any]
    size_px: NonNegativeInt = 0
    layer: Annotated[int, Range()] = LAST
    class_token: bool = False
    pixel_shuffle: PositiveInt = 1

    def check(self) -> None:
        if not isinstance(self.encoder.get("model_type"), str):
            raise ConfigError("encoder.model_type is missing: give the whole config of the tower, as transformers does")
        for name in SIZES:
            self._size(name)
        if found := [key for key in OTHER_FEATURES if key in self.encoder]:
            raise ConfigError(f"encoder.{found[0]}: a tower that has it does not give one feature for each patch")
        if found := [key for key, value in self.encoder.items() if value and (key in REFUSED or key.startswith("_"))]:
            raise ConfigError(f"encoder.{found[0]} is not of the tower's shape: leave it out")
        if not self.grid_side:
            raise ConfigError(f"size_px is {self._picture_px}, but encoder.patch_size is {self._size('patch_size')}")
        num_layers = self._size("num_hidden_layers")
        if not -num_layers - 1 <= self.layer <= num_layers:
            raise ConfigError(f"layer is {self.layer}, expected {-num_layers - 1} to {num_layers}")
        if self.grid_side % self.pixel_shuffle or (self.class_token and self.pixel_shuffle > 1):
            raise ConfigError(
                f"pixel_shuffle is {self.pixel_shuffle}, expected a divisor of the {self.grid_side} patches of a side, "
                "and no class_token beside them"
            )

    def _size(self, name: str) -> int:
        """A whole number of the tower's config; two equal ones, for height and width, count as one."""
        value = self.encoder.get(name)
        if isinstance(value, (list, tuple)) and len(set(value)) == 1:
            value = value[0]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"encoder.{name} is {value!r}, expected a number of 1 or more: towers have a fixed size")
        return value

    @property
    def _picture_px(self) -> int:
        return self.size_px or self._size("image_size")

    @property
    def grid_side(self) -> int:
        """Patches along one side of a picture; what is left at its edge is no patch."""
        return self._picture_px // self._size("patch_size")

    @property
    def encoder_width(self) -> int:
        """Channels of a feature, C."""
        return self._size("hidden_size")

    def num_features(self, generation: GenerationEyeConfig) -> int:
        return (self.grid_side // self.pixel_shuffle) ** 2 + self.class_token

    def image_size_px(self, generation: GenerationEyeConfig) -> int:
        return self._picture_px


class TowerEye(UnderstandingEye):
    """The tower never leaves eval mode: its dropout and its changes of positions would be drawn anew at each step."""

    heavy = ("encoder",)

    def __init__(self, c: TowerEyeConfig, width: int):
        super().__init__()
        self.config = c
        self.num_features = (c.grid_side // c.pixel_shuffle) ** 2 + c.class_token
        self.encoder = make_tower(c.encoder)
        self.published = published_names(self.encoder)
        self.adaptor = Adaptor(c.encoder_width * c.pixel_shuffle**2, width)

    def initialise(self) -> None:
        initialise_normal(self.adaptor)  # the tower has initialised itself

    def stored_name(self, name: str) -> str:
        part, _, rest = name.partition(".")
        return f"{part}.{self.published.get(rest, rest)}"

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        return self.adaptor(shuffle_pixels(self.features(pixels), self.config.pixel_shuffle))

    def features(self, pixels: Tensor) -> Tensor:
        """pixels [M, 3, H, W], normalised as the tower wants them -> [M, N, C], the class token first, if wanted.

        Raises ValueError if the tower gives something else than its config promises.
        """
        c, at = self.config, pixels.device
        for module in self.encoder.modules():  # tables that belong to no file, and stay where they were made
            for name, table in module.named_buffers(recurse=False):
                if table.device != at:
                    setattr(module, name, table.to(at))
        dtype = next(self.encoder.parameters()).dtype
        seen = self.encoder(pixels.to(dtype), output_hidden_states=c.layer != LAST)
        x = seen.last_hidden_state if c.layer == LAST else seen.hidden_states[c.layer]
        num_patches, shape = c.grid_side**2, list(x.shape)
        if x.dim() != 3 or shape[1] < num_patches + c.class_token or shape[2] != c.encoder_width:
            raise ValueError(
                f"the tower {c.encoder['model_type']} gives features {shape}, expected [pictures, positions, "
                f"{c.encoder_width}] with {num_patches} patches{' and a class token' if c.class_token else ''}"
            )
        patches = x[:, -num_patches:]  # what stands before them: class token, registers
        return torch.cat((x[:, :1], patches), dim=1) if c.class_token else patches


def shuffle_pixels(x: Tensor, side: int) -> Tensor:
    """[M, N, C] -> [M, N / side², C * side²]: squares of neighbours become one position, in reading order."""
    M, N, _ = x.shape
    if side == 1:
        return x
    grid = round(N**0.5) // side
    return x.view(M, grid, side, grid, side, -1).transpose(2, 3).reshape(M, grid**2, -1)


def make_tower(config: dict[str, Any]) -> nn.Module:
    """A tower of this config, without what pools its features. On the meta device its parameters have no values, but
    its tables do: no file holds them.

    Raises ValueError for a config that transformers makes no vision tower of.
    """
    library = transformers()
    from transformers.initialization import no_init_weights

    device, dtype = torch.get_default_device(), torch.get_default_dtype()
    is_meta = device.type == "meta"
    try:
        with torch.device("cpu" if is_meta else device), no_init_weights() if is_meta else nullcontext():
            tower = library.AutoModel.from_config(library.AutoConfig.for_model(**config), dtype=dtype)
    except (ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ValueError(f"transformers makes no vision tower of {config['model_type']}: {reason}") from None
    tower = plain_tower(tower)
    for module in tower.modules() if is_meta else ():
        for name, p in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(p.to("meta")))
    return tower.eval()


def plain_tower(tower: nn.Module) -> nn.Module:
    """A tower of transformers without what pools its features."""
    tower = getattr(tower, "vision_model", tower)  # in some versions it stands inside
    for name in POOLING:
        if isinstance(getattr(tower, name, None), nn.Module):
            setattr(tower, name, nn.Identity())
    return tower


def published_names(tower: nn.Module) -> dict[str, str]:
    """The names of a tower's tensors in published files, which stay, by their names as modules, which change from one
    version of transformers to the next. Left out are those that the files hold in one piece with others."""
    from transformers.core_model_loading import revert_weight_conversion

    state = tower.state_dict()
    names = {id(tensor): name for name, tensor in state.items()}
    published = revert_weight_conversion(tower, state)
    return {names[id(tensor)]: name for name, tensor in published.items() if id(tensor) in names}


def transformers() -> Any:
    """The library, which only this eye needs. Raises ValueError if it is not installed."""
    try:
        import transformers
    except ImportError:
        raise ValueError("a vision tower needs transformers: pip install 'openjanus[towers]'") from None
    return transformers

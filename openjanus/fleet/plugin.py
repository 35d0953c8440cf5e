"""The entry points (pyproject.toml): vLLM calls them in each of its processes. They do not patch vLLM."""

from functools import cache

NAME = "openjanus"  # of the config format, load format, tokenizer mode and plugin


@cache
def register() -> None:
    """`vllm.general_plugins`."""
    from vllm import ModelRegistry
    from vllm.model_executor.model_loader import register_model_loader
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry
    from vllm.transformers_utils.config import register_config_parser

    from openjanus.fleet.config import ARCHITECTURE, FleetConfigParser
    from openjanus.fleet.loader import FleetLoader

    register_config_parser(NAME)(FleetConfigParser)
    register_model_loader(NAME)(FleetLoader)
    TokenizerRegistry.register(NAME, "openjanus.fleet.tokenizer", "FleetTokenizer")
    RENDERER_REGISTRY.register(NAME, "openjanus.fleet.tokenizer", "FleetRenderer")
    ModelRegistry.register_model(ARCHITECTURE, "openjanus.fleet.model:OpenJanus")

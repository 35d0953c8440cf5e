"""Options that several commands have, with their help. Light: torch is not imported here."""

from typing import Annotated

from tyro.conf import arg

Model = Annotated[str, arg(help="a checkpoint folder of any format, a hub id (owner/name), or nano: the bundled model")]
Revision = Annotated[str | None, arg(help="branch, tag or commit of a hub id")]
AsConfigured = Annotated[bool, arg(help="follow do_normalize: false of the first Janus-1.3B files, a known mistake")]
Device = Annotated[str, arg(help="auto, cpu, cuda or mps")]
Weights = Annotated[str, arg(help="auto, float32, bfloat16, float16, int8 or int4: how matrices are stored")]
Threads = Annotated[int, arg(help="CPU threads; 0: torch's own choice")]

"""Several processes and GPUs that train one model (floor 5): `torchrun --nproc-per-node 8 -m openjanus train ...`.

The loop of training/ does not know them: it calls the methods of `OneProcess`, and `Several` has the same. Parameters,
gradients and the optimiser's state are sharded by FSDP2 (torch.distributed.fsdp.fully_shard); frozen buffers, such as
stored matrices, are whole in each process.
"""

"""The toy, trained by several processes: each is told by its environment who it is."""

import sys
from pathlib import Path

from bdgf_jax.training import distributed

if __name__ == "__main__":
    distributed.HEARTBEAT = 10
    distributed.join_processes()
    sys.path.insert(0, str(Path(__file__).parent))
    import toy

    workdir, steps, checkpoint_every, *how = sys.argv[1:]
    samples = toy.Read() if how == ["read"] else toy.PIXELS
    every = int(checkpoint_every)
    toy.train(workdir, samples=samples, steps=int(steps), checkpoint_every=every, placement="sharded")

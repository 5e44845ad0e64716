"""The rival: Ray Tune, one trial a task, each an eager autograd loop on the 2x2 problem. Logs nothing.

    python -m benchmarks.ray_tune TRIALS STEPS FOLDER

Prints the seconds that it all took, imports and start-up included.
"""

from __future__ import annotations

import sys
import time


def main() -> None:
    """Command line."""
    began = time.perf_counter()
    import ray
    from ray import tune

    trials, steps, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    def train(config: dict[str, int]) -> dict[str, float]:
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(config["seed"])
        factors = [(torch.randn(2, 2, dtype=torch.float64) * 0.03).requires_grad_() for _ in range(2)]
        optimizer = torch.optim.SGD(factors, lr=0.01)
        target = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
        mask = torch.tensor([[0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
        loss = torch.zeros(())
        for _ in range(steps):
            optimizer.zero_grad()
            product = factors[1] @ factors[0]
            loss = 0.5 * (((product - target) * mask) ** 2).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return {"loss": loss.item()}

    space = {"seed": tune.grid_search(list(range(trials)))}
    tuner = tune.Tuner(train, param_space=space, run_config=tune.RunConfig(storage_path=folder, verbose=0))
    if tuner.fit().errors:
        raise RuntimeError("trials failed")
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main()
